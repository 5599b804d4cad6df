"""Several answers to one prompt packed in one row: the prompt is shared, answers are masked apart.

Answers to a prompt are about as long as the prompt with its template, so a batch of them is half
the tokens that it is as separate texts. Axes: ``G`` rows, ``L`` tokens of a row, ``N`` answers,
``M`` tokens of all answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mpd_core.training.context import TrainingContext
from mpd_core.training.trunk import PADDING, Layout, Trunk


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
    packed = [_row(setup, prompt, answers) for prompt, answers in rows]
    width = max(len(row.ids) for row in packed)

    def stacked(name: str, padding: int) -> Tensor:
        lists = [torch.tensor(getattr(row, name)) for row in packed]
        return nn.utils.rnn.pad_sequence(lists, batch_first=True, padding_value=padding)

    def places(name: str) -> Tensor:
        return torch.tensor(
            [k * width + p for k, row in enumerate(packed) for p in getattr(row, name)]
        )

    return PackedAnswers(
        ids=stacked("ids", setup.tokenizer.pad_token_id),
        layout=Layout(stacked("positions", 0), stacked("segments", PADDING)),
        before=places("before"),
        targets=torch.tensor([token for row in packed for token in row.targets]),
        last=places("last"),
    )


@dataclass(frozen=True)
class _Row:
    ids: list[int]
    positions: list[int]
    segments: list[int]
    before: list[int]
    targets: list[int]
    last: list[int]


def _row(setup: TrainingContext, prompt: str, answers: Sequence[str]) -> _Row:
    asked = setup.ids(setup.prompt(prompt))
    start = len(asked)
    row = _Row(list(asked), list(range(start)), [0] * start, [], [], [])
    for number, answer in enumerate(answers, 1):
        own = setup.ids(answer + setup.end_of_turn)[: max(1, setup.recipe.data.max_tokens - start)]
        here = len(row.ids)
        row.before.extend([start - 1, *range(here, here + len(own) - 1)])
        row.targets.extend(own)
        row.ids.extend(own)
        row.positions.extend(range(start, start + len(own)))
        row.segments.extend([number] * len(own))
        row.last.append(len(row.ids) - 1)
    return row


def states(model: Any, ids: Tensor, layout: Layout, *, mixed: bool) -> Tensor:
    """Last hidden states of an adapted model, rows flattened, [G * L, D].

    Args:
        model: of PEFT, on a base whose lower layers may be the shared trunk.
        ids: packed rows, [G, L].
        layout: where their texts begin and end.
        mixed: whether products are computed in bf16.
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
