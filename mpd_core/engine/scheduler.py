"""Who runs in the next step, and in which rows: first come, first served. No torch here.

Rows of a lane are dense: running rows first, then those of the one sequence that is being
prefilled. When a row leaves, the last one takes its place, so a forward pass always covers one
slice of the cache. Its last rows are the prefix cache: what requests that have ended held.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mpd_core.engine.prefix_cache import PrefixCache
from mpd_core.engine.sequence import CacheRow, Sequence, reuse_prefixes
from mpd_core.errors import BusyError


@dataclass(frozen=True)
class Move:
    """A row whose place in the cache changes, or a copy of it for the prefix cache."""

    row: CacheRow
    source: int
    target: int


KEPT_SHARE = 8
"""Of the budget, one part in so many may hold what is kept."""


class RowTable:
    """The rows of one lane, in the order in which they lie in its cache."""

    def __init__(
        self, capacity: int, budget: int, *, kept: int = 0, keeps_replies: bool = False
    ) -> None:
        """A table without rows.

        Args:
            capacity: rows that the cache has.
            budget: tokens that all rows together may grow to (memory over bytes a token).
            kept: rows to keep of requests that have ended.
            keeps_replies: with the replies: what was decoded equals what would be prefilled.
        """
        self.capacity = capacity
        self.budget = budget
        self.kept = PrefixCache(capacity, kept, budget // KEPT_SHARE)
        self._keeps_replies = keeps_replies
        self.running: list[CacheRow] = []
        self.entering: list[CacheRow] = []

    def fits(self, rows: list[CacheRow]) -> bool:
        """Whether there is room for these rows, at the full length that they may reach."""
        count = len(self.running) + len(self.entering) + len(rows)
        return count <= self.capacity and self._tokens_left(rows) >= 0

    def admit(self, rows: list[CacheRow]) -> None:
        """Give rows to a sequence that is to be prefilled; the one before must be done with that.

        Rows that others take their first keys and values from lie first, then those with most to
        prefill: what is left to do is always a slice that begins at the first.
        """
        self.kept.evict(len(self.running) + len(rows), self._tokens_left(rows))
        reuse_prefixes(rows, [*self.running, *self.kept])
        for row in rows:
            if row.cached_from and row.cached_from in self.kept:
                self.kept.move_to_end(row.cached_from)  # the last one used
        self.entering = sorted(
            rows, key=lambda t: (t.prefix_leader is not None, t.cached_len - t.to_prefill)
        )

    def finish_prefill(self) -> None:
        """The prefilled rows join the running ones, where they lie."""
        self.running += self.entering
        self.entering = []

    def place(self, row: CacheRow) -> int:
        """Where a running or cached row lies in the cache."""
        return self.kept[row] if row in self.kept else self.running.index(row)

    def free(self, row: CacheRow, text: tuple[int, ...] = ()) -> list[Move]:
        """Free a row; the moves that keep the rows dense, to be carried out in this order.

        Args:
            row: running or entering.
            text: what it has read so far, to be kept if it was running; empty: nothing is.
        """
        keep = self._keep(row, text) if text and row in self.running else []
        entering = row in self.entering
        part, offset = (self.entering, len(self.running)) if entering else (self.running, 0)
        hole, last = part.index(row), part.pop()
        moves = []
        if last is not row:
            part[hole] = last
            moves = [Move(last, offset + len(part), offset + hole)]
        if not entering:  # the running part shrank by one: the entering rows close the gap
            gap = len(self.running)
            moves += [Move(t, gap + k + 1, gap + k) for k, t in enumerate(self.entering)]
        return keep + moves

    def _keep(self, row: CacheRow, text: tuple[int, ...]) -> list[Move]:
        end = row.filled if self._keeps_replies else min(row.filled, row.to_prefill)
        kept = CacheRow(row.call, text[: end + 1], length=end, filled=end)
        count = len(self.running) + len(self.entering)
        place = self.kept.insert(kept, count, self._tokens_left())
        return [] if place is None else [Move(kept, self.running.index(row), place)]

    def _tokens_left(self, rows: Iterable[CacheRow] = ()) -> int:
        held = [*self.running, *self.entering, *rows]
        return self.budget - sum(row.length for row in held)


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
        if self.entering is None and self.waiting and fits(self.waiting[0], self.tables):
            self.entering = self.waiting.popleft()
            for lane, table in self.tables.items():
                table.admit(self.entering.on(lane))
        return Schedule(self.entering, tuple(self.running))

    def finish_prefill(self) -> None:
        """The entering sequence is prefilled: from now on it decodes."""
        if self.entering is not None:
            self.running.append(self.entering)
            self.entering = None
            for table in self.tables.values():
                table.finish_prefill()

    def remove(self, sequence: Sequence, *, keep: bool = False) -> list[Move]:
        """Forget a sequence, wherever it is; the moves that close its gaps.

        ``keep``: what its rows hold, for those that begin alike.
        """
        if sequence in self.waiting:
            self.waiting.remove(sequence)
            return []
        moves = [
            move
            for row in sequence.rows
            for move in self.tables[row.lane].free(row, sequence.ids(row) if keep else ())
        ]
        if sequence is self.entering:
            self.entering = None
        else:
            self.running.remove(sequence)
        return moves

    def ahead(self, sequence: Sequence) -> int:
        """How many requests are to be read before this one can be."""
        if sequence not in self.waiting:
            return 0
        return self.waiting.index(sequence) + (self.entering is not None)

    def everyone(self) -> list[Sequence]:
        """All sequences that have not ended."""
        entering = [self.entering] if self.entering else []
        return [*self.running, *entering, *self.waiting]


def fits(sequence: Sequence, tables: Mapping[str, RowTable]) -> bool:
    """Whether there is room for a sequence's rows on every lane."""
    return all(table.fits(sequence.on(lane)) for lane, table in tables.items())
