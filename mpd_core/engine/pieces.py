"""Prefill without padding: pieces of prompts side by side, for rows that compiled loops compute."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from mpd_core.engine.sequence import CacheRow


@dataclass(frozen=True)
class Pieces:
    """Tokens of some rows' prompts, of each row from a start to an end; N in all."""

    rows: list[CacheRow]
    starts: list[int]
    ends: list[int]

    @classmethod
    def next(cls, rows: list[CacheRow], ends: list[int], most: int) -> Pieces:
        """The first tokens that these rows lack, up to one position; N at most ``most``, if it can.

        Rows go ahead together, so that those of one trunk read its states in one pass. No piece
        goes beyond where a trunk parts from the one that it shares its beginning with.
        """
        left = [(t, end) for t, end in zip(rows, ends, strict=True) if t.filled < end]
        start, stop = min(t.filled for t, _ in left), max(end for _, end in left)
        forks = [t.trunk.prefix_len for t, _ in left if t.trunk and t.trunk.prefix_leader]
        stop = min([stop, start + most, *(fork for fork in forks if fork > start)])
        while stop > start + 1 and _lacking(left, stop) > most:
            stop -= 1
        parts = [(t, t.filled, min(stop, end)) for t, end in left if t.filled < stop]
        return cls(*(list(column) for column in zip(*parts, strict=True)))

    def below(self) -> Pieces:
        """What is read of the trunk for these, each token of it once."""
        spans: dict[CacheRow, tuple[int, int]] = {}
        for row, start, end in self:
            source = _source(row, end)
            first, last = spans.get(source, (start, end))
            spans[source] = (min(first, start), max(last, end))
        return Pieces(list(spans), *(list(column) for column in zip(*spans.values(), strict=True)))

    def among(self, below: Pieces) -> Tensor:
        """Where each token's state is among those of the pieces below, [N]."""
        firsts = itertools.accumulate((end - start for _, start, end in below), initial=0)
        behind = {t: first - start for (t, start, _), first in zip(below, firsts, strict=False)}
        return torch.cat([torch.arange(a, b) + behind[_source(row, b)] for row, a, b in self])

    def __iter__(self) -> itertools.chain[tuple[CacheRow, int, int]]:
        """Row, start and end of each."""
        return itertools.chain(zip(self.rows, self.starts, self.ends, strict=True))

    def tokens(self) -> Tensor:
        """[N]."""
        return torch.tensor([token for row, a, b in self for token in row.prompt[a:b]])

    def positions(self) -> Tensor:
        """[N]."""
        return torch.cat([torch.arange(start, end) for _, start, end in self])

    def owners(self) -> list[CacheRow]:
        """The row of each token, N."""
        return [row for row, start, end in self for _ in range(start, end)]

    def done(self) -> None:
        """Note that they are in the cache."""
        for row, _, end in self:
            row.filled = max(row.filled, end)


def _source(row: CacheRow, end: int) -> CacheRow:
    """Whose states a row reads before this position: its trunk's, or those of the trunk's leader,
    for as long as they are the same."""
    trunk = row.trunk
    assert trunk is not None
    return (trunk.prefix_leader if end <= trunk.prefix_len else None) or trunk


def _lacking(rows: Iterable[tuple[CacheRow, int]], stop: int) -> int:
    """Tokens that rows lack before this position, each to its own end."""
    return sum(max(0, min(stop, end) - row.filled) for row, end in rows)
