"""Reads the prompts of entering rows into the caches, a chunk at a time."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mpd_core.engine.chunk import Chunk, up_to_last
from mpd_core.engine.pieces import Pieces
from mpd_core.engine.plan import TRUNK
from mpd_core.engine.scheduler import RowTable
from mpd_core.engine.sequence import CacheRow
from mpd_core.models.rows import RowModel

CPU_CHUNK, GPU_CHUNK = 128, 2048
"""Tokens of all rows in a prefill chunk: how long running streams may wait for a newcomer."""

Lanes = Mapping[str, RowModel]
Tables = Mapping[str, RowTable]


class Prefill:
    """Writes prompts into cache rows; no logits are computed.

    What other rows hold already is copied. What several rows share is written once, by their
    leaders, and copied. On a CPU tokens of all rows lie side by side; elsewhere rows with a shorter
    prompt are padded: what a pad writes lies beyond the row's own length, is never attended to, and
    is overwritten by the row's own tokens.
    """

    def __init__(self, lanes: Lanes, most: int) -> None:
        """``most``: tokens of a chunk."""
        self._lanes = lanes
        self._most = most

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
            if left := up_to_last(table.entering, lambda t: t.filled < t.to_prefill):
                self._write(name, left, [row.to_prefill for row in left], tables)

    def _copy_cached(self, lane: RowModel, table: RowTable) -> None:
        first = len(table.running)
        for k, row in enumerate(table.entering):
            if not row.filled:
                lane.cache.wipe(first + k)  # whoever had it may have been broken
            if row.cached_from:  # in the turn of its admission: that row cannot have left yet
                lane.cache.move(table.place(row.cached_from), first + k, row.cached_len)
                row.filled, row.cached_from = row.cached_len, None

    def _copy_prefixes(self, lane: RowModel, table: RowTable) -> None:
        places = entering_places(table)
        for row in table.entering:
            if row.prefix_leader and row.filled < row.prefix_len:
                lane.cache.move(places[row.prefix_leader], places[row], row.prefix_len)
                row.filled = row.prefix_len

    def _write(self, name: str, rows: list[CacheRow], ends: list[int], tables: Tables) -> None:
        """Bring the first entering rows of a lane closer to where they are to be filled to."""
        if self._lanes[name].ragged:
            self._write_pieces(name, Pieces.next(rows, ends, self._most), tables)
        else:
            self._write_chunk(name, Chunk.next(rows, ends, self._most), tables)

    def _write_pieces(self, name: str, pieces: Pieces, tables: Tables) -> None:
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
        places, owners = entering_places(tables[name]), pieces.owners()
        rows = torch.tensor([places[row] for row in owners])
        adapters = [row.call.adapters for row in owners]
        lane = self._lanes[name]
        positions = pieces.positions()[None]
        hidden = lane.forward(inputs[None], positions, rows, adapters, states)
        pieces.done()
        return hidden[0]

    def _follow(self, pieces: Pieces, table: RowTable) -> None:
        """Copy to the trunks of these what was written for them to the trunks that they follow."""
        places = entering_places(table)
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
        if sources:
            trunk = up_to_last(tables[TRUNK].entering, lambda t: t in sources)
            states = self._write_chunk(TRUNK, chunk.on(trunk), tables)
            inputs = states[[trunk.index(source) for source in sources]]
        adapters = [row.call.adapters for row in chunk.rows]
        first = len(tables[name].running)
        hidden = self._lanes[name].forward(inputs, chunk.positions(), first, adapters)
        chunk.done()
        return hidden


def entering_places(table: RowTable) -> dict[CacheRow, int]:
    """Where entering rows lie in the cache."""
    return {row: len(table.running) + k for k, row in enumerate(table.entering)}
