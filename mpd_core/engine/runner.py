"""Carries out a schedule on the models: prefill into cache rows, one decode step for all rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from mpd_core.engine.scheduler import Move, RowTable
from mpd_core.engine.sequence import Sequence, Track
from mpd_core.experts import TRUNK
from mpd_core.experts.remote import RemoteAnswer
from mpd_core.merging import merge
from mpd_core.models.pcm import WeightHead
from mpd_core.models.rows import RowModel

CPU_CHUNK, GPU_CHUNK = 128, 2048
"""Rows x tokens of a prefill chunk: how long running streams may have to wait for a newcomer."""

Lanes = Mapping[str, RowModel]
Tables = Mapping[str, RowTable]


@dataclass(frozen=True)
class Distribution:
    """What the experts of one sequence say about its next token."""

    log_probs: Tensor
    """Each expert's, normalised, [E, V]."""
    weights: Tensor
    """alpha, [E]."""
    merged: Tensor
    """Log-probabilities of the mixture, [V]."""
    missing: Mapping[int, float] = field(default_factory=dict)
    """By index of a remote expert: probability that its server did not list."""


@dataclass(frozen=True)
class _Chunk:
    """A piece of some rows' prompts: ``length`` tokens from ``start``, each row to its end."""

    tracks: list[Track]
    ends: list[int]
    start: int
    length: int

    @classmethod
    def next(cls, tracks: list[Track], ends: list[int], most: int) -> _Chunk:
        """The first tokens that any row lacks; rows x tokens at most ``most``."""
        pairs = zip(tracks, ends, strict=True)
        start = min(track.filled for track, end in pairs if track.filled < end)
        return cls(tracks, ends, start, min(max(ends) - start, max(1, most // len(tracks))))

    def on(self, tracks: list[Track]) -> _Chunk:
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


def _up_to_last(tracks: list[Track], wanted: Callable[[Track], bool]) -> list[Track]:
    """The first rows, up to the last one that is wanted: a pass covers a slice."""
    last = max((k for k, track in enumerate(tracks) if wanted(track)), default=-1)
    return tracks[: last + 1]


class Runner:
    """The models behind the lanes, and the head that turns PCM rows into weights."""

    def __init__(self, lanes: Lanes, head: WeightHead) -> None:
        """Take the models.

        Args:
            lanes: by name; ``base`` always, ``pcm`` where the PCM has a backbone of its own, one
                for each expert that is a model of its own, and first, where the base's lower
                layers are shared, its ``trunk``.
            head: of the PCM.
        """
        self.lanes = lanes
        self.head = head.to(lanes.get("pcm", lanes["base"]).device)
        self._device = lanes["base"].device
        self._chunk = GPU_CHUNK if self._device.type == "cuda" else CPU_CHUNK

    def tables(self) -> dict[str, RowTable]:
        """An empty table for each lane."""
        return {
            name: RowTable(lane.cache.capacity, lane.cache.budget)
            for name, lane in self.lanes.items()
        }

    def tidy(self, moves: list[Move], tables: Tables) -> None:
        """After rows have left: close their gaps in the caches, let go of their adapters."""
        for move in moves:
            cache = self.lanes[move.track.lane].cache
            cache.move(move.source, move.target, move.track.filled)
        for name, table in tables.items():
            rows = [*table.running, *table.entering]
            self.lanes[name].keep_adapters([track.row.adapters for track in rows])

    def prefill(self, tables: Tables) -> None:
        """Write one chunk of the entering rows' prompts into the cache; no logits are computed.

        What several rows share is written once, by their leaders, and copied. Rows with a shorter
        prompt are padded: what a pad writes lies beyond the row's own length, is never attended
        to, and is overwritten by the row's own tokens.
        """
        for name, table in tables.items():
            if name == TRUNK:
                continue  # prefilled together with the rows that read from it
            lane = self.lanes[name]
            leaders = [track for track in table.entering if track.leader is None]
            if any(track.filled < track.shared for track in leaders):
                ends = [track.shared for track in leaders]
                self._prefill_chunk(name, _Chunk.next(leaders, ends, self._chunk), tables)
                continue
            self._copy_shared(lane, table)
            if left := _up_to_last(table.entering, lambda t: t.filled < t.to_prefill):
                ends = [track.to_prefill for track in left]
                self._prefill_chunk(name, _Chunk.next(left, ends, self._chunk), tables)

    def _copy_shared(self, lane: RowModel, table: RowTable) -> None:
        first = len(table.running)
        places = {track: first + k for k, track in enumerate(table.entering)}
        for track in table.entering:
            if track.leader and track.filled < track.shared:
                lane.cache.move(places[track.leader], places[track], track.shared)
                track.filled = track.shared

    def _prefill_chunk(self, name: str, chunk: _Chunk, tables: Tables) -> Tensor:
        """Bring the first entering rows of a lane closer to where they are to be filled to.

        Returns:
            Their hidden states, [rows, T, D].
        """
        inputs = chunk.tokens()
        sources = [track.trunk for track in chunk.tracks if track.trunk]
        if sources:
            trunk = _up_to_last(tables[TRUNK].entering, lambda t: t in sources)
            states = self._prefill_chunk(TRUNK, chunk.on(trunk), tables)
            inputs = states[[trunk.index(source) for source in sources]]
        adapters = [track.row.adapters for track in chunk.tracks]
        first = len(tables[name].running)
        hidden = self.lanes[name].forward(inputs, chunk.positions(), first, adapters)
        chunk.done()
        return hidden

    def step(
        self, sequences: Iterable[Sequence], answers: Mapping[Track, RemoteAnswer], tables: Tables
    ) -> list[Distribution]:
        """One batched forward a lane; what the experts of each sequence say, in its order.

        Args:
            sequences: all that are running. One whose servers have not answered yet is computed
                again in the next step, to the same effect, and left out of the result.
            answers: of the remote rows that are here.
            tables: the lanes' rows.
        """
        sequences = tuple(sequences)
        owner = {track: sequence for sequence in sequences for track in sequence.tracks}
        hidden: dict[Track, Tensor] = {}
        for name, table in tables.items():
            if table.running:
                states = self._decode_lane(self.lanes[name], table.running, owner, hidden)
                hidden.update(zip(table.running, states, strict=True))
        ready = [s for s in sequences if all(track in answers for track in s.remote)]
        log_probs = self._local_log_probs(ready, hidden)
        log_probs |= {track: a.log_probs.to(self._device) for track, a in answers.items()}
        return [self._distribution(s, log_probs, answers, hidden) for s in ready]

    def _distribution(
        self,
        sequence: Sequence,
        log_probs: Mapping[Track, Tensor],
        answers: Mapping[Track, RemoteAnswer],
        hidden: Mapping[Track, Tensor],
    ) -> Distribution:
        said = torch.stack([log_probs[track] for track in sequence.experts])
        weights = self._weights(sequence, hidden)
        missing = {k: answers[t].missing for k, t in enumerate(sequence.experts) if t in answers}
        return Distribution(said, weights, merge(sequence.request.space, said, weights), missing)

    def _decode_lane(
        self,
        lane: RowModel,
        tracks: list[Track],
        owner: Mapping[Track, Sequence],
        below: Mapping[Track, Tensor],
    ) -> Tensor:
        read = torch.tensor([owner[track].next_input(track) for track in tracks])
        inputs, positions = read[:, :1], read[:, 1:]
        if any(track.trunk for track in tracks):
            inputs = torch.stack([below[track.trunk] for track in tracks if track.trunk])[:, None]
        hidden = lane.forward(inputs, positions, 0, [track.row.adapters for track in tracks])
        for track, position in zip(tracks, positions[:, 0].tolist(), strict=True):
            track.filled = position + 1
        return hidden[:, -1]

    def _local_log_probs(
        self, sequences: Iterable[Sequence], hidden: Mapping[Track, Tensor]
    ) -> dict[Track, Tensor]:
        """[V] for each expert row that is computed here: one output product a lane."""
        rows: dict[str, list[Track]] = {}
        for track in (track for s in sequences for track in s.experts if not track.row.remote):
            rows.setdefault(track.lane, []).append(track)
        log_probs: dict[Track, Tensor] = {}
        for name, tracks in rows.items():
            states = torch.stack([hidden[track] for track in tracks])
            log_probs.update(zip(tracks, self.lanes[name].log_probs(states), strict=True))
        return log_probs

    def _weights(self, sequence: Sequence, hidden: Mapping[Track, Tensor]) -> Tensor:
        if sequence.pcm is None:
            return torch.tensor(sequence.plan.fixed, device=self._device)
        weight: Tensor = self.head.linear.weight
        poles = torch.tensor(sequence.plan.poles, device=weight.device)
        chosen = torch.zeros(len(weight), dtype=torch.bool, device=poles.device)
        chosen[poles] = True
        alpha: Tensor = self.head(hidden[sequence.pcm], chosen)
        return alpha[poles].to(self._device)
