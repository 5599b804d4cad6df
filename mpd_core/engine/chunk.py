"""Chunked prefill: which piece of which prompts a pass writes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mpd_core.engine.sequence import CacheRow


@dataclass(frozen=True)
class Chunk:
    """A piece of some rows' prompts: ``length`` tokens from ``start``, each row to its end.

    What lies in a row beyond its end is written over; no end may lie before what it holds already.
    """

    rows: list[CacheRow]
    ends: list[int]
    start: int
    length: int

    @classmethod
    def next(cls, rows: list[CacheRow], ends: list[int], most: int) -> Chunk:
        """The first tokens that any row lacks; rows x tokens at most ``most``.

        Never one token alone if another is before it: attention over one query rounds otherwise
        than over several, and texts would depend on how much was cached.
        """
        left = [(t.filled, end) for t, end in zip(rows, ends, strict=True) if t.filled < end]
        start, last = min(filled for filled, _ in left), max(end for _, end in left)
        start -= start > 0 and start + 1 == last
        return cls(rows, ends, start, min(last - start, max(2, most // len(rows))))

    def on(self, rows: list[CacheRow]) -> Chunk:
        """The same positions of other rows, each to its prompt's end."""
        return replace(self, rows=rows, ends=[row.to_prefill for row in rows])

    def tokens(self) -> Tensor:
        """[rows, length], zero where a row has ended."""
        tokens = torch.zeros(len(self.rows), self.length, dtype=torch.long)
        for k, (row, end) in enumerate(zip(self.rows, self.ends, strict=True)):
            piece = row.prompt[self.start : min(self.start + self.length, end)]
            tokens[k, : len(piece)] = torch.tensor(piece, dtype=torch.long)
        return tokens

    def positions(self) -> Tensor:
        """[rows, length]."""
        positions = torch.arange(self.start, self.start + self.length)
        return positions.expand(len(self.rows), -1)

    def done(self) -> None:
        """Note that it is in the cache."""
        for row, end in zip(self.rows, self.ends, strict=True):
            row.filled = max(row.filled, min(self.start + self.length, end))


def up_to_last(rows: list[CacheRow], wanted: Callable[[CacheRow], bool]) -> list[CacheRow]:
    """The first rows, up to the last one that is wanted: a pass covers a slice."""
    last = max((k for k, row in enumerate(rows) if wanted(row)), default=-1)
    return rows[: last + 1]
