"""Prefix cache: KV rows of requests that have ended, evicted on demand. No torch here.

The next turn of a conversation, or the same prompt under other toggles, reads anew only what no
row holds.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from mpd_core.engine.sequence import CacheRow


class PrefixCache:
    """The last rows of a lane's cache, least recently used first; running rows evict them."""

    def __init__(self, capacity: int, rows: int, tokens: int) -> None:
        """Nothing is kept yet; of a cache's ``capacity``, rows and tokens to keep at most."""
        self._places = range(capacity - min(rows, capacity), capacity)
        self._tokens = tokens
        self._rows: OrderedDict[CacheRow, int] = OrderedDict()

    def __iter__(self) -> Iterator[CacheRow]:
        """Rows, the one that was used last at the end; the prompt of each is all that it holds."""
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, row: CacheRow) -> bool:
        return row in self._rows

    @property
    def places(self) -> list[int]:
        """Of all rows that are kept."""
        return list(self._rows.values())

    def place(self, row: CacheRow) -> int:
        """Where it lies in the cache."""
        return self._rows[row]

    def touch(self, row: CacheRow) -> None:
        """Note that a request has begun with what this row holds."""
        self._rows.move_to_end(row)

    def evict(self, rows: int, tokens: int) -> None:
        """Drop what lies among the first rows, which others need, and the least recently used until
        no more tokens are kept than these."""
        self._rows = OrderedDict((t, place) for t, place in self._rows.items() if place >= rows)
        while self._rows and sum(row.length for row in self._rows) > tokens:
            self._rows.popitem(last=False)

    def insert(self, row: CacheRow, rows: int, tokens: int) -> int | None:
        """Find a place for a row that ends.

        Args:
            row: its prompt is all that it holds, and one token more.
            rows: of the cache that others need.
            tokens: that may be kept beside what others need.

        Returns:
            Where to copy it to; None if there is no room, or another row holds as much.
        """
        tokens = min(tokens, self._tokens)
        free = [place for place in self._places if place >= rows]
        if not free or row.length > tokens:
            return None
        for other in [other for other in self if other.call.adapters == row.call.adapters]:
            if _begins_with(other, row):
                self.touch(other)
                return None
            if _begins_with(row, other):
                del self._rows[other]
        self.evict(rows, tokens - row.length)
        if len(self._rows) == len(free):
            self._rows.popitem(last=False)
        place = max(set(free) - set(self._rows.values()))
        self._rows[row] = place
        return place


def _begins_with(one: CacheRow, other: CacheRow) -> bool:
    held = other.prompt[:-1]
    return one.prompt[:-1][: len(held)] == held
