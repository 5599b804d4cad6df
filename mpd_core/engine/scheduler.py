"""Who runs in the next step, and in which rows: first come, first served. No torch here.

Rows of a lane are dense: running rows first, then those of the one sequence that is being
prefilled. When a row leaves, the last one takes its place, so a forward pass always covers one
slice of the cache.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from mpd_core.engine.sequence import Sequence, Track, borrow_prefixes
from mpd_core.errors import BusyError


@dataclass(frozen=True)
class Move:
    """A row whose place in the cache changes."""

    track: Track
    source: int
    target: int


class RowTable:
    """The rows of one lane, in the order in which they lie in its cache."""

    def __init__(self, capacity: int, budget: int) -> None:
        """A table without rows.

        Args:
            capacity: rows that the cache has.
            budget: tokens that all rows together may grow to (memory over bytes a token).
        """
        self.capacity = capacity
        self.budget = budget
        self.running: list[Track] = []
        self.entering: list[Track] = []

    def fits(self, tracks: list[Track]) -> bool:
        """Whether there is room for these rows, at the full length that they may reach."""
        rows = [*self.running, *self.entering, *tracks]
        return len(rows) <= self.capacity and sum(t.length for t in rows) <= self.budget

    def enter(self, tracks: list[Track]) -> None:
        """Give rows to a sequence that is to be prefilled; the one before must have settled.

        Rows that others take their first keys and values from lie first, then those with most to
        prefill: what is left to do is always a slice that begins at the first.
        """
        borrow_prefixes(tracks, self.running)
        self.entering = sorted(
            tracks, key=lambda t: (t.leader is not None, t.borrowed - t.to_prefill)
        )

    def settle(self) -> None:
        """The prefilled rows join the running ones, where they lie."""
        self.running += self.entering
        self.entering = []

    def leave(self, track: Track) -> list[Move]:
        """Free a row; the moves that keep the rows dense, to be carried out in this order."""
        part, offset = self.running, 0
        if track in self.entering:
            part, offset = self.entering, len(self.running)
        moves = _take_out(part, track, offset)
        if part is self.running:
            # The running part shrank by one: the entering rows close the gap, order kept.
            hole = len(self.running)
            moves += [Move(t, hole + k + 1, hole + k) for k, t in enumerate(self.entering)]
        return moves


def _take_out(part: list[Track], track: Track, offset: int) -> list[Move]:
    hole, last = part.index(track), part.pop()
    if last is track:
        return []
    part[hole] = last
    return [Move(last, offset + len(part), offset + hole)]


@dataclass(frozen=True)
class Schedule:
    """What one turn of the engine does: at most one prefill, then one step of the running."""

    prefill: Sequence | None
    running: tuple[Sequence, ...]


@dataclass
class Scheduler:
    """Admits sequences in order of arrival as rows become free."""

    tables: Mapping[str, RowTable]
    max_waiting: int
    waiting: deque[Sequence] = field(default_factory=deque)
    entering: Sequence | None = None
    running: list[Sequence] = field(default_factory=list)

    @property
    def idle(self) -> bool:
        return not (self.waiting or self.entering or self.running)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence.

        Raises:
            BusyError: too many wait already.
        """
        if len(self.waiting) >= self.max_waiting:
            raise BusyError(f"{len(self.waiting)} requests are waiting: try again in a moment.")
        self.waiting.append(sequence)

    def schedule(self) -> Schedule:
        """Admit whom there is room for and say who runs."""
        if self.entering is None and self.waiting and self._fits(self.waiting[0]):
            self.entering = self.waiting.popleft()
            for lane, table in self.tables.items():
                table.enter(self.entering.on(lane))
        return Schedule(self.entering, tuple(self.running))

    def settle(self) -> None:
        """The entering sequence is prefilled: from now on it decodes."""
        if self.entering is not None:
            self.running.append(self.entering)
            self.entering = None
            for table in self.tables.values():
                table.settle()

    def remove(self, sequence: Sequence) -> list[Move]:
        """Forget a sequence, wherever it is; the moves that close its gaps."""
        if sequence in self.waiting:
            self.waiting.remove(sequence)
            return []
        moves = [m for t in sequence.tracks for m in self.tables[t.lane].leave(t)]
        if sequence is self.entering:
            self.entering = None
        else:
            self.running.remove(sequence)
        return moves

    def everyone(self) -> list[Sequence]:
        """All sequences that have not ended."""
        entering = [self.entering] if self.entering else []
        return [*self.running, *entering, *self.waiting]

    def _fits(self, sequence: Sequence) -> bool:
        return all(table.fits(sequence.on(lane)) for lane, table in self.tables.items())
