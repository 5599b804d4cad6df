"""Rows of requests that have ended, kept for those that begin alike. No torch here.

The next turn of a conversation, or the same prompt under other toggles, reads anew only what no
row holds.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from mpd_core.engine.sequence import Track


class KeptRows:
    """The last rows of a lane's cache; whoever needs their place or their memory takes it."""

    def __init__(self, capacity: int, rows: int, tokens: int) -> None:
        """Nothing is kept yet.

        Args:
            capacity: rows of the cache.
            rows: to keep at most.
            tokens: to keep at most, in all rows.
        """
        self._places = range(capacity - min(rows, capacity), capacity)
        self._tokens = tokens
        self._rows: OrderedDict[Track, int] = OrderedDict()

    def __iter__(self) -> Iterator[Track]:
        """Rows, the one that was used last at the end; the prompt of each is all that it holds."""
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, track: Track) -> bool:
        return track in self._rows

    def place(self, track: Track) -> int:
        """Where it lies in the cache."""
        return self._rows[track]

    def use(self, track: Track) -> None:
        """Note that somebody begins with what this row holds."""
        self._rows.move_to_end(track)

    def make_room(self, rows: int, tokens: int) -> None:
        """Let go of what lies among the first rows, and of the oldest until tokens are left.

        Args:
            rows: of the cache that others need.
            tokens: that may be kept beside what others need.
        """
        self._rows = OrderedDict((t, place) for t, place in self._rows.items() if place >= rows)
        while self._rows and sum(track.length for track in self._rows) > tokens:
            self._rows.popitem(last=False)

    def keep(self, track: Track, rows: int, tokens: int) -> int | None:
        """Find a place for a row that ends.

        Args:
            track: its prompt is all that it holds, and one token more.
            rows: of the cache that others need.
            tokens: that may be kept beside what others need.

        Returns:
            Where to copy it to; None if there is no room, or another row holds as much.
        """
        tokens = min(tokens, self._tokens)
        free = [place for place in self._places if place >= rows]
        if not free or track.length > tokens:
            return None
        for other in [other for other in self if other.row.adapters == track.row.adapters]:
            if _begins_with(other, track):
                self.use(other)
                return None
            if _begins_with(track, other):
                del self._rows[other]
        self.make_room(rows, tokens - track.length)
        if len(self._rows) == len(free):
            self._rows.popitem(last=False)
        place = max(set(free) - set(self._rows.values()))
        self._rows[track] = place
        return place


def _begins_with(one: Track, other: Track) -> bool:
    held = other.prompt[:-1]
    return one.prompt[:-1][: len(held)] == held
