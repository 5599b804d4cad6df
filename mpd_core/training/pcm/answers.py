"""Log-probabilities that every expert gives the written answers, by teacher forcing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mpd_core.engine.plan import ANCHOR, PLAIN
from mpd_core.errors import PackError
from mpd_core.method.preferences import Preference
from mpd_core.method.static import uniform
from mpd_core.models.adapters import WEIGHTS_FILE, load_adapter
from mpd_core.models.threads import run_in_fresh_thread
from mpd_core.training import rollouts
from mpd_core.training.adapters.experts import anchor_folder, experts_key, load_experts
from mpd_core.training.context import TrainingContext
from mpd_core.training.data import Split, Styled
from mpd_core.training.rollouts import DIGITS, Rollout, frozen
from mpd_core.training.teacher_forcing import TeacherForcing

WRITTEN = "written"
"""Value of ``method`` for replies that were written, not generated."""
TEXTS = 8
OTHERS = 24
"""Alternative tokens recorded beside each written one; together they hold most of the mass."""


def written(setup: TrainingContext, split: Split, prompts: int | None = None) -> list[Rollout]:
    """The written answers of a split as ``Rollout``s, as if the engine had sampled them.

    To the first so many prompts, or to all. They are kept in a file by the experts' hashes: reading
    them takes minutes.

    Raises:
        PackError: no such answers, or experts that are not adapters.
    """
    rows = setup.taught.split(split)[:prompts]
    space = setup.pack.spec.decode.space
    made_of = f"{experts_key(setup)}-{setup.taught.sha256[:12]}"
    file = setup.out / "answers" / f"{made_of}-{space}-{split}-{len(rows)}.jsonl"
    if not file.is_file():
        rollouts.save(file, run_in_fresh_thread(_read, setup, split, rows))
    return rollouts.load(file)


def _read(setup: TrainingContext, split: Split, rows: Sequence[Styled]) -> list[Rollout]:
    texts = list(_texts(setup, rows))
    if not texts:
        raise PackError(
            f"data.file: no {split} row has an answer to a whole preference (named by its code): "
            "write some, or take [pcm.answers] out of the recipe."
        )
    space = setup.pack.spec.decode.space
    prior, adapters = setup.pack.spec.experts.prior, load_experts(setup)
    first = [PLAIN] if space == "strength" else []  # the anchor rows
    if ((anchor := anchor_folder(setup)) / WEIGHTS_FILE).is_file():
        adapters.append(load_adapter(ANCHOR, anchor))
        if first and prior < 1.0:
            first.append(ANCHOR)
    reader = TeacherForcing(
        setup,
        adapters,
        texts=TEXTS,
        length=setup.recipe.data.max_tokens,
        mixes={PLAIN: ((ANCHOR, prior),)} if prior else {},
    )
    prompts, answers = [t.prompt_ids for t in texts], [t.answer_ids for t in texts]
    names = [[*first, *(pole.name for pole in t.preference.poles)] for t in texts]
    replies: dict[int, Rollout] = {}
    for k, said in reader.read(prompts, answers, names, title="answers"):
        replies[k] = _reply(texts[k], torch.stack([*said], -1), others=space != "probability")
    return [replies[k] for k in range(len(texts))]


@dataclass(frozen=True)
class _Text:
    """A prompt with a written answer, its end of turn included."""

    prompt: str
    preference: Preference
    answer: str
    prompt_ids: list[int]
    answer_ids: list[int]


def _texts(setup: TrainingContext, rows: Sequence[Styled]) -> Iterator[_Text]:
    for row in rows:
        for preference in setup.pack.space:
            if answer := row.answers.get(preference.code):
                prompt = setup.ids(setup.prompt(row.prompt))
                most = setup.recipe.data.max_tokens - len(prompt)
                own = setup.ids(answer + setup.end_of_turn)[: max(0, most)]
                if own:
                    yield _Text(row.prompt, preference, answer, prompt, own)


def _reply(text: _Text, said: Tensor, *, others: bool) -> Rollout:
    """A written text as a rollout with uniform weights.

    Args:
        text: of T tokens.
        said: ln p_i of the whole vocabulary before each token, anchors first where there are any,
            [T, V, E].
        others: note the likeliest other tokens, which normalise spaces that are no mixtures.
    """
    experts = len(text.preference.poles)
    tokens = torch.tensor(text.answer_ids)[:, None]
    own = said.gather(1, tokens[:, :, None].expand(-1, -1, said.shape[-1]))[:, 0]
    told: tuple[Any, ...] = ()
    if others:
        # The likeliest with anybody, in the geometric mean too: those share what likes agree on.
        anybody = torch.maximum(said.amax(dim=-1), said.mean(dim=-1).log_softmax(dim=-1))
        likely = anybody.scatter(1, tokens, -torch.inf).topk(OTHERS, dim=1).indices
        table = said.gather(1, likely[:, :, None].expand(-1, -1, said.shape[-1]))
        told = frozen(((table * 10**DIGITS).round() / 10**DIGITS).tolist())
    return Rollout(
        prompt=text.prompt,
        preference=text.preference.code,
        method=WRITTEN,
        text=text.answer,
        finished=True,
        tokens=tuple(text.answer_ids),
        log_probs=frozen(own.tolist()),
        weights=(uniform(experts),) * len(tokens),
        disagreement=(0.0,) * len(tokens),
        others=told,
    )
