"""Replies as tensors for the PCM: those to one prompt and preference are one packed row."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from mpd_core.request import Space
from mpd_core.training.context import TrainingContext
from mpd_core.training.packed import PackedRow, pack_row, stack_rows
from mpd_core.training.rollouts import Rollout
from mpd_core.training.trunk import Layout, padded

UNLIKELY = -1e4
"""Log-probability used as padding: effectively zero mass, but with a finite gradient."""


@dataclass(frozen=True)
class Merging:
    """The space of a pack, and the settings of ``strength``; see ``mpd_core.method.merging``."""

    space: Space
    strength: float
    settled: float
    fade: float
    plausibility: float


@dataclass(frozen=True)
class Batch:
    """N replies in G packed rows of L tokens; T tokens of a reply at most, E experts at most."""

    ids: Tensor
    """What the PCM reads: a prompt with its preference, then replies to it, each without its last
    token, [G, L]."""
    layout: Layout
    """Positions and segments of the replies in each row."""
    at: Tensor
    """Index into the flattened rows of the state that predicts each token's weights, [N, T]."""
    mask: Tensor
    """True at tokens of the reply, [N, T]."""
    log_probs: Tensor
    """Recorded ln p_i, [N, T, E]; in the space ``strength`` [N, T, A + E], anchors first."""
    others: Tensor
    """Likewise of other likely tokens, [N, T, C, E]; C is 0 where none are needed."""
    poles: Tensor
    """Index of each expert's pole in the head, [N, E]; -1 where there is no expert."""
    merging: Merging
    """How the replies' experts are merged."""

    def to(self, device: torch.device) -> Batch:
        """The same with its tensors on a device."""
        here = {field.name: getattr(self, field.name) for field in fields(self)}
        moved = {name: value.to(device) for name, value in here.items() if name != "merging"}
        return Batch(**moved, merging=self.merging)


class Collator:
    """Collates replies into batches for a policy."""

    def __init__(self, setup: TrainingContext) -> None:
        self._setup, self._space = setup, setup.pack.space
        self._merging = Merging(**setup.pack.merging(next(iter(self._space))))

    def __call__(self, replies: Sequence[Rollout]) -> Batch:
        """Pack replies; replies that share a row must be adjacent."""
        alike = itertools.groupby(replies, key=lambda reply: (reply.prompt, reply.preference))
        rows = [self._row(*key, group) for key, group in alike]
        ids, layout = stack_rows(rows, self._setup.tokenizer.pad_token_id)
        at = [
            torch.tensor(places) + k * ids.shape[1]
            for k, row in enumerate(rows)
            for places in row.states
        ]
        lengths = torch.tensor([len(reply.tokens) for reply in replies])
        return Batch(
            ids=ids,
            layout=layout,
            at=padded(at),
            mask=torch.arange(int(lengths.max())) < lengths[:, None],
            log_probs=padded_tables([torch.tensor(reply.log_probs) for reply in replies]),
            others=others_table(replies, int(lengths.max())),
            merging=self._merging,
            poles=padded((self._poles(reply.preference) for reply in replies), -1),
        )

    def _row(self, prompt: str, preference: str, replies: Iterable[Rollout]) -> PackedRow:
        instructions = [pole.instruction for pole in self._space.parse(preference).poles]
        asked = self._setup.renderer.render(self._setup.messages(prompt), instructions)
        return pack_row(asked, [reply.tokens[:-1] for reply in replies])

    def _poles(self, preference: str) -> Tensor:
        poles = self._space.parse(preference).poles
        return torch.tensor([self._space.poles.index(pole) for pole in poles])


def others_table(replies: Sequence[Rollout], length: int) -> Tensor:
    """Log-probabilities of alternative tokens, [N, T, C, E], padded with ``UNLIKELY``."""
    steps = [step for reply in replies for step in reply.others]
    count = max((len(step) for step in steps), default=0)
    experts = max(len(reply.log_probs[0]) for reply in replies)
    table = torch.full((len(replies), length, count, experts), UNLIKELY)
    for row, reply in enumerate(replies):
        for place, step in enumerate(reply.others):
            if step:
                table[row, place, : len(step), : len(step[0])] = torch.tensor(step)
    return table


def padded_tables(tables: Sequence[Tensor]) -> Tensor:
    """Pad tables [T, E] of different sizes to [N, T, E]."""
    most = max(table.shape[1] for table in tables)
    return padded(nn.functional.pad(table, (0, most - table.shape[1])) for table in tables)
