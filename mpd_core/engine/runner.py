"""Carries out a schedule on the models: prefill into cache rows, one decode step for all rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mpd_core.engine.scheduler import Move, RowTable
from mpd_core.engine.sequence import Sequence, Track
from mpd_core.merging import merge
from mpd_core.models.pcm import WeightHead
from mpd_core.models.rows import RowModel

PREFILL_ROW_TOKENS = 512  # a chunk's rows x tokens: how long running streams may have to wait


@dataclass(frozen=True)
class Distribution:
    """What the experts of one sequence say about its next token."""

    log_probs: Tensor
    """Each expert's, normalised, [E, V]."""
    weights: Tensor
    """alpha, [E]."""
    merged: Tensor
    """Log-probabilities of the mixture, [V]."""


class Runner:
    """The models behind the lanes, and the head that turns PCM rows into weights."""

    def __init__(self, lanes: tuple[RowModel, ...], head: WeightHead) -> None:
        self.lanes = lanes
        self.head = head.to(lanes[-1].device)

    def tidy(self, moves: list[Move], tables: tuple[RowTable, ...]) -> None:
        """After rows have left: close their gaps in the caches, let go of their adapters."""
        for move in moves:
            cache = self.lanes[move.track.lane].cache
            cache.move(move.source, move.target, move.track.filled)
        for lane, table in zip(self.lanes, tables, strict=True):
            lane.keep_adapters([t.row.adapters for t in (*table.running, *table.entering)])

    def prefill(self, tables: tuple[RowTable, ...]) -> None:
        """Write one chunk of the entering rows' prompts into the cache; no logits are computed.

        What several rows share is written once, by their leaders, and copied. Rows with a shorter
        prompt are padded: what a pad writes lies beyond the row's own length, is never attended
        to, and is overwritten by the row's own tokens.
        """
        for lane, table in zip(self.lanes, tables, strict=True):
            leaders = [track for track in table.entering if track.leader is None]
            if any(track.filled < track.shared for track in leaders):
                self._prefill_chunk(lane, table, leaders, [track.shared for track in leaders])
                continue
            self._copy_shared(lane, table)
            if any(track.filled < track.to_prefill for track in table.entering):
                ends = [track.to_prefill for track in table.entering]
                self._prefill_chunk(lane, table, table.entering, ends)

    def _copy_shared(self, lane: RowModel, table: RowTable) -> None:
        first = len(table.running)
        places = {track: first + k for k, track in enumerate(table.entering)}
        for track in table.entering:
            if track.leader and track.filled < track.shared:
                lane.cache.move(places[track.leader], places[track], track.shared)
                track.filled = track.shared

    def _prefill_chunk(
        self, lane: RowModel, table: RowTable, tracks: list[Track], ends: list[int]
    ) -> None:
        """Bring the first entering rows closer to the ends that they are to be filled to."""
        pairs = list(zip(tracks, ends, strict=True))
        start = min(track.filled for track, end in pairs if track.filled < end)
        length = min(max(ends) - start, max(1, PREFILL_ROW_TOKENS // len(tracks)))
        tokens = torch.zeros(len(tracks), length, dtype=torch.long)
        for row, (track, end) in enumerate(pairs):
            piece = track.prompt[start : min(start + length, end)]
            tokens[row, : len(piece)] = torch.tensor(piece, dtype=torch.long)
        positions = torch.arange(start, start + length).expand_as(tokens)
        adapters = [track.row.adapters for track in tracks]
        lane.forward(tokens, positions, len(table.running), adapters)
        for track, end in pairs:
            track.filled = max(track.filled, min(start + length, end))

    def step(
        self, sequences: tuple[Sequence, ...], tables: tuple[RowTable, ...]
    ) -> list[Distribution]:
        """One batched forward a lane; what the experts of each sequence say, in its order."""
        owner = {track: sequence for sequence in sequences for track in sequence.tracks}
        hidden: dict[Track, Tensor] = {}
        for lane, table in zip(self.lanes, tables, strict=True):
            if table.running:
                states = self._decode_lane(lane, table.running, owner)
                hidden.update(zip(table.running, states, strict=True))
        log_probs = self._expert_log_probs(sequences, hidden)
        weights = [self._weights(sequence, hidden) for sequence in sequences]
        return [
            Distribution(lp, w, merge(sequence.request.space, lp, w))
            for sequence, lp, w in zip(sequences, log_probs, weights, strict=True)
        ]

    def _decode_lane(
        self, lane: RowModel, tracks: list[Track], owner: dict[Track, Sequence]
    ) -> Tensor:
        inputs = torch.tensor([owner[track].next_input(track) for track in tracks])
        tokens, positions = inputs[:, :1], inputs[:, 1:]
        hidden = lane.forward(tokens, positions, 0, [track.row.adapters for track in tracks])
        for track, position in zip(tracks, positions[:, 0].tolist(), strict=True):
            track.filled = position + 1
        return hidden[:, -1]

    def _expert_log_probs(
        self, sequences: tuple[Sequence, ...], hidden: dict[Track, Tensor]
    ) -> tuple[Tensor, ...]:
        rows = torch.stack([hidden[track] for s in sequences for track in s.experts])
        log_probs, sizes = self.lanes[0].log_probs(rows), [len(s.experts) for s in sequences]
        return tuple(torch.split_with_sizes(log_probs, sizes))

    def _weights(self, sequence: Sequence, hidden: dict[Track, Tensor]) -> Tensor:
        experts = len(sequence.experts)
        if sequence.pcm is None:
            return torch.full((experts,), 1.0 / experts, device=self.lanes[0].device)
        poles = torch.tensor(sequence.plan.poles, device=self.lanes[-1].device)
        chosen = torch.zeros(self.head.linear.out_features, dtype=torch.bool, device=poles.device)
        chosen[poles] = True
        alpha: Tensor = self.head(hidden[sequence.pcm], chosen)
        return alpha[poles].to(self.lanes[0].device)
