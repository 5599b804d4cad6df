"""Which piece of which prompts a prefill pass writes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mpd_core.engine.sequence import Track


@dataclass(frozen=True)
class Chunk:
    """A piece of some rows' prompts: ``length`` tokens from ``start``, each row to its end.

    What lies in a row beyond its end is written over; no end may lie before what it holds already.
    """

    tracks: list[Track]
    ends: list[int]
    start: int
    length: int

    @classmethod
    def next(cls, tracks: list[Track], ends: list[int], most: int) -> Chunk:
        """The first tokens that any row lacks; rows x tokens at most ``most``.

        Never one token alone if another is before it: attention over one query rounds otherwise
        than over several, and texts would depend on how much was borrowed.
        """
        left = [(t.filled, end) for t, end in zip(tracks, ends, strict=True) if t.filled < end]
        start, last = min(filled for filled, _ in left), max(end for _, end in left)
        start -= start > 0 and start + 1 == last
        return cls(tracks, ends, start, min(last - start, max(2, most // len(tracks))))

    def on(self, tracks: list[Track]) -> Chunk:
        """The same positions of other rows, each to its prompt's end."""
        return replace(self, tracks=tracks, ends=[track.to_prefill for track in tracks])

    def tokens(self) -> Tensor:
        """[rows, length], zero where a row has ended."""
        tokens = torch.zeros(len(self.tracks), self.length, dtype=torch.long)
        for row, (track, end) in enumerate(zip(self.tracks, self.ends, strict=True)):
            piece = track.prompt[self.start : min(self.start + self.length, end)]
            tokens[row, : len(piece)] = torch.tensor(piece, dtype=torch.long)
        return tokens

    def positions(self) -> Tensor:
        """[rows, length]."""
        positions = torch.arange(self.start, self.start + self.length)
        return positions.expand(len(self.tracks), -1)

    def done(self) -> None:
        """Note that it is in the cache."""
        for track, end in zip(self.tracks, self.ends, strict=True):
            track.filled = max(track.filled, min(self.start + self.length, end))


def up_to_last(tracks: list[Track], wanted: Callable[[Track], bool]) -> list[Track]:
    """The first rows, up to the last one that is wanted: a pass covers a slice."""
    last = max((k for k, track in enumerate(tracks) if wanted(track)), default=-1)
    return tracks[: last + 1]
