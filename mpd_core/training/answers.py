"""What every expert says of the written answers to whole preferences, by teacher forcing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from tqdm import tqdm

from mpd_core.errors import PackError
from mpd_core.models.adapters import load_adapter
from mpd_core.models.threads import passing
from mpd_core.preferences import Preference
from mpd_core.training import rollouts
from mpd_core.training.data import Split
from mpd_core.training.experts import expert_folder, experts_key
from mpd_core.training.reading import Reader
from mpd_core.training.rollouts import Reply
from mpd_core.training.setup import Setup

WRITTEN = "written"
"""What stands for the method of a reply that a person wrote."""
TEXTS = 8


def written(setup: Setup, split: Split) -> list[Reply]:
    """The split's answers to whole preferences as if the engine had sampled them.

    They are kept in a file by the experts' hashes: reading them takes minutes.

    Raises:
        PackError: no such answers, or experts that are not adapters.
    """
    file = setup.out / "answers" / f"{experts_key(setup)}-{split}.jsonl"
    if not file.is_file():
        rollouts.save(file, passing(_read, setup, split))
    return rollouts.load(file)


def _read(setup: Setup, split: Split) -> list[Reply]:
    texts = list(_texts(setup, split))
    if not texts:
        raise PackError(
            f"data.file: no {split} row has an answer to a whole preference (named by its code): "
            "write some, or take [pcm.answers] out of the recipe."
        )
    poles = setup.pack.space.poles
    adapters = [load_adapter(pole.name, expert_folder(setup, pole)) for pole in poles]
    reader = Reader(setup, adapters, texts=TEXTS, length=setup.recipe.data.max_tokens)
    replies: dict[int, Reply] = {}
    for batch in tqdm(list(reader.batches([t.ids for t in texts])), desc="answers", leave=False):
        names = [[p.name for p in texts[k].preference.poles] for k in batch]
        states = reader.states([texts[k].ids for k in batch], names)
        for k, some, rows in zip(batch, names, states, strict=True):
            before, ids = slice(len(texts[k].prompt_ids) - 1, -1), texts[k].answer_ids
            said = [
                reader.said(row[before], ids, name).cpu()
                for name, row in zip(some, rows, strict=True)
            ]
            replies[k] = _reply(texts[k], torch.stack(said, dim=-1))
    return [replies[k] for k in range(len(texts))]


@dataclass(frozen=True)
class _Text:
    """A prompt with a written answer, its end of turn included."""

    prompt: str
    preference: Preference
    answer: str
    prompt_ids: list[int]
    answer_ids: list[int]

    @property
    def ids(self) -> list[int]:
        return self.prompt_ids + self.answer_ids


def _texts(setup: Setup, split: Split) -> Iterator[_Text]:
    for row in setup.styles.split(split):
        for preference in setup.pack.space:
            if answer := row.answers.get(preference.code):
                prompt = setup.ids(setup.prompt(row.prompt))
                most = setup.recipe.data.max_tokens - len(prompt)
                own = setup.ids(answer + setup.end_of_turn)[: max(0, most)]
                if own:
                    yield _Text(row.prompt, preference, answer, prompt, own)


def _reply(text: _Text, said: torch.Tensor) -> Reply:
    """``said``: ln p_i of each token, [T, E]; nobody weighed the experts."""
    tokens, experts = said.shape
    return Reply(
        prompt=text.prompt,
        preference=text.preference.code,
        method=WRITTEN,
        text=text.answer,
        finished=True,
        tokens=tuple(text.answer_ids),
        log_probs=tuple(map(tuple, said.tolist())),
        weights=((1 / experts,) * experts,) * tokens,
        disagreement=(0.0,) * tokens,
    )
