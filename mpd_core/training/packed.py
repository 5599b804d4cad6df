"""Several texts after one prompt packed in one row: the prompt is shared, texts are masked apart.

Answers to a prompt are about as long as the prompt with its template, so a batch of them is half
the tokens that it is as separate texts. Axes: ``G`` rows, ``L`` tokens of a row, ``N`` answers,
``M`` tokens of all answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mpd_core.training.context import TrainingContext
from mpd_core.training.trunk import PADDING, Layout, Trunk, padded


@dataclass(frozen=True)
class PackedRow:
    """A prompt, then texts that each go on from it and do not see each other."""

    ids: list[int]
    positions: list[int]
    """Of each token in its own text, the prompt included."""
    segments: list[int]
    """As in ``Layout``: 0 for the prompt, k for the k-th text."""
    states: list[list[int]]
    """Of each text, indices in the row: of the prompt's last token, then of its own tokens."""


def pack_row(prompt: Sequence[int], texts: Iterable[Sequence[int]]) -> PackedRow:
    """Lay texts behind a prompt, all as token ids."""
    start = len(prompt)
    row = PackedRow(list(prompt), list(range(start)), [0] * start, [])
    for number, text in enumerate(texts, 1):
        here = len(row.ids)
        row.states.append([start - 1, *range(here, here + len(text))])
        row.ids.extend(text)
        row.positions.extend(range(start, start + len(text)))
        row.segments.extend([number] * len(text))
    return row


def stack_rows(rows: Sequence[PackedRow], pad: int) -> tuple[Tensor, Layout]:
    """Token ids [G, L], padded on the right, and their layout."""
    ids, positions, segments = (
        padded((torch.tensor(getattr(row, name)) for row in rows), filling)
        for name, filling in (("ids", pad), ("positions", 0), ("segments", PADDING))
    )
    return ids, Layout(positions, segments)


@dataclass(frozen=True)
class PackedAnswers:
    """Packed rows, each a prompt with its answers; indices are into the flattened rows [G * L]."""

    ids: Tensor
    """[G, L]."""
    layout: Layout
    before: Tensor
    """Index of the state that predicts each answer token, [M]."""
    targets: Tensor
    """The answer tokens, end of turn included, [M]."""
    last: Tensor
    """Index of each answer's end-of-turn token, [N]."""


def pack_answers(
    setup: TrainingContext, rows: Sequence[tuple[str, Sequence[str]]]
) -> PackedAnswers:
    """Tokenise and pack prompts with answers; one that is too long is cut, without end of turn."""
    packed = []
    for prompt, answers in rows:
        asked = setup.ids(setup.prompt(prompt))
        most = max(1, setup.recipe.data.max_tokens - len(asked))
        texts = (setup.ids(answer + setup.end_of_turn)[:most] for answer in answers)
        packed.append(pack_row(asked, texts))
    ids, layout = stack_rows(packed, setup.tokenizer.pad_token_id)
    found = [
        [k * ids.shape[1] + place for place in places]
        for k, row in enumerate(packed)
        for places in row.states
    ]
    own = torch.tensor([place for places in found for place in places[1:]])
    return PackedAnswers(
        ids=ids,
        layout=layout,
        before=torch.tensor([place for places in found for place in places[:-1]]),
        targets=ids.flatten()[own],
        last=torch.tensor([places[-1] for places in found]),
    )


def states(model: Any, ids: Tensor, layout: Layout, *, mixed: bool) -> Tensor:
    """Last hidden states of packed rows [G, L] in a PEFT model, rows flattened, [G * L, D].

    The lower layers of its base may be the shared trunk; ``mixed`` computes products in bf16.
    """
    body, device = model.get_base_model().model, next(model.parameters()).device
    ids, layout = ids.to(device), layout.to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
        embed = body.embed_tokens
        below = embed(ids, layout) if isinstance(embed, Trunk) else embed(ids)
        hidden: Tensor = body(
            inputs_embeds=below,
            attention_mask=layout.visible(),
            position_ids=layout.positions,
            use_cache=False,
        ).last_hidden_state
    return hidden.flatten(0, 1)
