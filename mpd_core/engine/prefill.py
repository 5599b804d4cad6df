"""Reads the prompts of entering rows into the caches, a chunk at a time.

On a CPU tokens of all rows lie side by side (``Pieces``); elsewhere rows with a shorter prompt are
padded (``Chunk``): what a pad writes lies beyond the row's own length, is never attended to, and is
overwritten by the row's own tokens.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mpd_core.engine.plan import TRUNK
from mpd_core.engine.scheduler import RowTable
from mpd_core.engine.sequence import CacheRow
from mpd_core.models.rows import RowModel

CPU_CHUNK, GPU_CHUNK = 128, 2048
"""Tokens of all rows in a prefill chunk: how long running streams may wait for a newcomer."""

Lanes = Mapping[str, RowModel]
Tables = Mapping[str, RowTable]


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

        def lacking(stop: int) -> int:
            return sum(max(0, min(stop, end) - row.filled) for row, end in left)

        left = [(t, end) for t, end in zip(rows, ends, strict=True) if t.filled < end]
        start, stop = min(t.filled for t, _ in left), max(end for _, end in left)
        forks = [t.trunk.prefix_len for t, _ in left if t.trunk and t.trunk.prefix_leader]
        stop = min([stop, start + most, *(fork for fork in forks if fork > start)])
        while stop > start + 1 and lacking(stop) > most:
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

    def tokens(self) -> Tensor:
        """[rows, length], zero where a row has ended."""
        tokens = torch.zeros(len(self.rows), self.length, dtype=torch.long)
        for k, (row, end) in enumerate(zip(self.rows, self.ends, strict=True)):
            piece = row.prompt[self.start : min(self.start + self.length, end)]
            tokens[k, : len(piece)] = torch.tensor(piece, dtype=torch.long)
        return tokens


class Prefill:
    """Writes prompts into cache rows; no logits are computed.

    What other rows hold already is copied. What several rows share is written once, by their
    leaders, and copied.
    """

    def __init__(self, lanes: Lanes, most: int) -> None:
        """``most``: tokens of a chunk."""
        self._lanes, self._most = lanes, most

    def advance(self, tables: Tables) -> None:
        """Write one chunk of the entering rows' prompts."""
        for name, table in tables.items():
            self._copy_cached(self._lanes[name], table)
        for name, table in tables.items():
            if name == TRUNK:
                continue  # prefilled together with the rows that read from it
            leaders = [row for row in table.entering if row.prefix_leader is None]
            if any(row.filled < row.prefix_len for row in leaders):
                ends = [max(row.prefix_len, row.filled) for row in leaders]
                self._write(name, leaders, ends, tables)
                continue
            self._copy_prefixes(self._lanes[name], table)
            if left := _up_to_last(table.entering, lambda t: t.filled < t.to_prefill):
                self._write(name, left, [row.to_prefill for row in left], tables)

    def _copy_cached(self, lane: RowModel, table: RowTable) -> None:
        for row, place in _places(table).items():
            if not row.filled:
                lane.cache.wipe(place)  # whoever had it may have been broken
            if row.cached_from:  # in the turn of its admission: that row cannot have left yet
                lane.cache.move(table.place(row.cached_from), place, row.cached_len)
                row.filled, row.cached_from = row.cached_len, None

    def _copy_prefixes(self, lane: RowModel, table: RowTable) -> None:
        places = _places(table)
        for row in table.entering:
            if row.prefix_leader and row.filled < row.prefix_len:
                lane.cache.move(places[row.prefix_leader], places[row], row.prefix_len)
                row.filled = row.prefix_len

    def _write(self, name: str, rows: list[CacheRow], ends: list[int], tables: Tables) -> None:
        """Bring the first entering rows of a lane closer to where they are to be filled to."""
        if not self._lanes[name].ragged:
            self._write_chunk(name, Chunk.next(rows, ends, self._most), tables)
            return
        pieces = Pieces.next(rows, ends, self._most)
        inputs = pieces.tokens()
        if pieces.rows[0].trunk:
            below = pieces.below()
            states = self._read(TRUNK, below, below.tokens(), tables)
            inputs = states[pieces.among(below)]
            self._follow(pieces, tables[TRUNK])
        self._read(name, pieces, inputs, tables, states=False)

    def _read(
        self, name: str, pieces: Pieces, inputs: Tensor, tables: Tables, *, states: bool = True
    ) -> Tensor:
        places, owners = _places(tables[name]), pieces.owners()
        rows = torch.tensor([places[row] for row in owners])
        adapters, positions = [row.call.adapters for row in owners], pieces.positions()[None]
        hidden = self._lanes[name].forward(inputs[None], positions, rows, adapters, states)
        pieces.done()
        return hidden[0]

    def _follow(self, pieces: Pieces, table: RowTable) -> None:
        """Copy to the trunks of these what was written for them to the trunks that they follow."""
        places = _places(table)
        for row, _, end in pieces:
            trunk = row.trunk
            if trunk and trunk.prefix_leader and trunk.filled < end <= trunk.prefix_len:
                leader = places[trunk.prefix_leader]
                self._lanes[TRUNK].cache.move(leader, places[trunk], end)
                trunk.filled = end

    def _write_chunk(self, name: str, chunk: Chunk, tables: Tables) -> Tensor:
        """The same, padded; hidden states, [rows, T, D]."""
        inputs = chunk.tokens()
        sources = [row.trunk for row in chunk.rows if row.trunk]
        if sources:  # the same positions of the trunk's rows, each to its prompt's end
            trunk = _up_to_last(tables[TRUNK].entering, lambda t: t in sources)
            below = replace(chunk, rows=trunk, ends=[row.to_prefill for row in trunk])
            states = self._write_chunk(TRUNK, below, tables)
            inputs = states[[trunk.index(source) for source in sources]]
        adapters = [row.call.adapters for row in chunk.rows]
        end = chunk.start + chunk.length
        positions = torch.arange(chunk.start, end).expand(len(chunk.rows), -1)
        first = len(tables[name].running)
        hidden = self._lanes[name].forward(inputs, positions, first, adapters)
        for row, own in zip(chunk.rows, chunk.ends, strict=True):
            row.filled = max(row.filled, min(end, own))
        return hidden


def _up_to_last(rows: list[CacheRow], wanted: Callable[[CacheRow], bool]) -> list[CacheRow]:
    """The first rows, up to the last one that is wanted: a pass covers a slice."""
    last = max((k for k, row in enumerate(rows) if wanted(row)), default=-1)
    return rows[: last + 1]


def _places(table: RowTable) -> dict[CacheRow, int]:
    """Where entering rows lie in the cache."""
    return {row: len(table.running) + k for k, row in enumerate(table.entering)}
