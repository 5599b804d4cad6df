"""What every expert says of the written answers to whole preferences, by teacher forcing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tqdm import tqdm

from mpd_core.errors import PackError
from mpd_core.models.adapters import load_adapter
from mpd_core.models.threads import passing
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
    asked = [
        (row.prompt, preference.code, row.answers[preference.code])
        for row in setup.styles.split(split)
        for preference in setup.pack.space
        if preference.code in row.answers
    ]
    if not asked:
        raise PackError(f"data.file: no {split} row has an answer to a whole preference.")
    poles = setup.pack.space.poles
    adapters = [load_adapter(pole.name, expert_folder(setup, pole)) for pole in poles]
    prompts = [_ids(setup, setup.prompt(prompt)) for prompt, _, _ in asked]
    most = setup.recipe.data.max_tokens
    answers = [
        _ids(setup, answer + setup.end_of_turn)[: most - len(prompt)]
        for prompt, (_, _, answer) in zip(prompts, asked, strict=True)
    ]
    names = [[pole.name for pole in setup.pack.space.parse(code).poles] for _, code, _ in asked]
    reader = Reader(setup, adapters, texts=TEXTS, length=most)
    replies: list[Reply | None] = [None] * len(asked)
    whole = [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
    for batch in tqdm(list(reader.batches(whole)), desc="answers", leave=False):
        states = reader.states([whole[k] for k in batch], [names[k] for k in batch])
        for k, rows in zip(batch, states, strict=True):
            before = slice(len(prompts[k]) - 1, -1)
            said = [reader.said(row[before], answers[k]).cpu() for row in rows]
            prompt, code, text = asked[k]
            replies[k] = _reply(prompt, code, text, answers[k], torch.stack(said, dim=-1))
    return [reply for reply in replies if reply]


def _reply(
    prompt: str, preference: str, text: str, tokens: Sequence[int], said: torch.Tensor
) -> Reply:
    """``said``: ln p_i of each token, [T, E]; nobody weighed the experts."""
    return Reply(
        prompt=prompt,
        preference=preference,
        method=WRITTEN,
        text=text,
        finished=True,
        tokens=tuple(tokens),
        log_probs=tuple(map(tuple, said.tolist())),
        weights=((1 / said.shape[1],) * said.shape[1],) * len(tokens),
        disagreement=(0.0,) * len(tokens),
    )


def _ids(setup: Setup, text: str) -> list[int]:
    ids: list[int] = setup.tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids
