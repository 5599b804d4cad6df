"""Prefix cache: KV rows of requests that have ended, evicted on demand. No torch here.

The next turn of a conversation, or the same prompt under other toggles, reads anew only what no
row holds.
"""

from __future__ import annotations

from collections import OrderedDict

from mpd_core.engine.sequence import CacheRow


class PrefixCache(OrderedDict[CacheRow, int]):
    """Kept rows and where they lie, at the end of a lane's cache; running rows evict them.

    The one that was used last is at the end; the prompt of each is all that it holds.
    """

    def __init__(self, capacity: int, rows: int, tokens: int) -> None:
        """Nothing is kept yet; of a cache's ``capacity``, rows and tokens to keep at most."""
        super().__init__()
        self._places = range(capacity - min(rows, capacity), capacity)
        self._tokens = tokens

    def evict(self, rows: int, tokens: int) -> None:
        """Drop what lies among the first rows, which others need, and the least recently used until
        no more tokens are kept than these."""
        for row in [row for row, place in self.items() if place < rows]:
            del self[row]
        while self and sum(row.length for row in self) > tokens:
            self.popitem(last=False)

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
                self.move_to_end(other)
                return None
            if _begins_with(row, other):
                del self[other]
        self.evict(rows, tokens - row.length)
        if len(self) == len(free):
            self.popitem(last=False)
        self[row] = max(set(free) - set(self.values()))
        return self[row]


def _begins_with(one: CacheRow, other: CacheRow) -> bool:
    held = other.prompt[:-1]
    return one.prompt[:-1][: len(held)] == held
