"""Carries out a schedule on the models: prefill into cache rows, one decode step for all rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mpd_core.engine.prefill import CPU_CHUNK, GPU_CHUNK, Lanes, Prefill, Tables
from mpd_core.engine.scheduler import Move, RowTable
from mpd_core.engine.sequence import CacheRow, Sequence
from mpd_core.method.merging import fading_strength, merge
from mpd_core.method.weight_head import WeightHead, top_one
from mpd_core.models.rows import RowModel
from mpd_core.remote.expert import RemoteAnswer
from mpd_core.request import GenerationRequest, Space

CPU_TOGETHER = 2
"""Sequences that are merged in one go: a few distributions stay in a CPU's caches, all do not."""

KEPT_ROWS = 32
"""About the last eight requests with three experts."""


@dataclass(frozen=True)
class Distribution:
    """What the experts of R sequences, E of each, say about their next tokens."""

    log_probs: Tensor
    """Each expert's, normalised, [R, E, V]."""
    weights: Tensor
    """alpha, [R, E]."""
    merged: Tensor
    """Log-probabilities of the mixtures, [R, V]."""
    space: Space
    """In which they were merged."""
    anchors: Tensor | None = None
    """In the space ``strength``, what was moved and what from, [R, 1 or 2, V]."""


@dataclass(frozen=True)
class StepOutput:
    """One step of sequences that are merged alike."""

    sequences: tuple[Sequence, ...]
    distribution: Distribution
    missing: tuple[Mapping[int, float], ...]
    """Of each sequence, by index of a remote expert: probability that its server did not list."""


class Runner:
    """The models behind the lanes, and the head that turns PCM rows into weights."""

    def __init__(self, lanes: Lanes, head: WeightHead, *, kept_rows: int = KEPT_ROWS) -> None:
        """Take the models.

        Args:
            lanes: by name; ``base`` always, ``pcm`` where the PCM has a backbone of its own, one
                for each expert that is a model of its own, and first, where the base's lower
                layers are shared, its ``trunk``.
            head: of the PCM.
            kept_rows: of each lane, to keep of requests that have ended.
        """
        self.lanes = lanes
        self._kept_rows = kept_rows
        self.head = head.to(lanes.get("pcm", lanes["base"]).device)
        self._device = lanes["base"].device
        on_gpu = self._device.type == "cuda"
        self._prefill = Prefill(lanes, GPU_CHUNK if on_gpu else CPU_CHUNK)
        self._together = None if on_gpu else CPU_TOGETHER

    def tables(self) -> dict[str, RowTable]:
        """An empty table for each lane."""
        return {
            name: RowTable(
                lane.cache.capacity,
                lane.cache.budget,
                kept=self._kept_rows,
                keeps_replies=lane.exact,
            )
            for name, lane in self.lanes.items()
        }

    def compact(self, moves: list[Move], tables: Tables) -> None:
        """After rows were freed: close their gaps in the caches, let go of their adapters."""
        for move in moves:
            cache = self.lanes[move.row.lane].cache
            cache.move(move.source, move.target, move.row.filled)
        for name, table in tables.items():
            held = [*table.running, *table.entering]
            self.lanes[name].keep_adapters([row.call.adapters for row in held])

    def prefill(self, tables: Tables) -> None:
        """Write one chunk of the entering rows' prompts into the cache; no logits are computed."""
        self._prefill.advance(tables)

    def step(
        self,
        sequences: Iterable[Sequence],
        answers: Mapping[CacheRow, RemoteAnswer],
        tables: Tables,
    ) -> list[StepOutput]:
        """One batched forward a lane; what the experts of the sequences say, like with like.

        Args:
            sequences: all that are running. One whose servers have not answered yet is computed
                again in the next step, to the same effect, and left out of the result.
            answers: of the remote rows that are here.
            tables: the lanes' rows.
        """
        sequences = tuple(sequences)
        owner = {row: sequence for sequence in sequences for row in sequence.rows}
        hidden: dict[CacheRow, Tensor] = {}
        for name, table in tables.items():
            if table.running:
                states = self._decode_lane(self.lanes[name], table.running, owner, hidden)
                hidden.update(zip(table.running, states, strict=True))
        ready = [s for s in sequences if all(row in answers for row in s.remote)]
        log_probs = self._local_log_probs(ready, hidden)
        log_probs |= {row: a.log_probs.to(self._device) for row, a in answers.items()}
        groups = _groups(ready, self._together)
        return [self._merge(alike, log_probs, answers, hidden) for alike in groups]

    def _merge(
        self,
        sequences: tuple[Sequence, ...],
        log_probs: Mapping[CacheRow, Tensor],
        answers: Mapping[CacheRow, RemoteAnswer],
        hidden: Mapping[CacheRow, Tensor],
    ) -> StepOutput:
        each = [log_probs[row] for sequence in sequences for row in sequence.experts]
        said = torch.stack(each).view(len(sequences), -1, each[0].shape[-1])
        weights = self._weights(sequences, hidden)
        for row, sequence in enumerate(sequences):
            if sequence.forced_weights is not None:
                weights[row] = weights.new_tensor(sequence.forced_weights)
        like = sequences[0].request
        plain = [torch.stack([log_probs[t] for t in s.anchors]) for s in sequences if s.anchors]
        anchors = torch.stack(plain) if plain else None
        strength: float | Tensor = like.strength
        if anchors is not None:  # only the space ``strength`` has any
            indices = [len(s.prefix) + len(s.tokens) for s in sequences]
            strength = strength_of(like, torch.tensor(indices, device=said.device))
        merged = merge(like.space, said, weights, anchors, strength, like.plausibility)
        missing = tuple(
            {k: answers[t].missing for k, t in enumerate(s.experts) if t in answers}
            for s in sequences
        )
        return StepOutput(
            sequences, Distribution(said, weights, merged, like.space, anchors), missing
        )

    def _decode_lane(
        self,
        lane: RowModel,
        rows: list[CacheRow],
        owner: Mapping[CacheRow, Sequence],
        below: Mapping[CacheRow, Tensor],
    ) -> Tensor:
        read = torch.tensor([owner[row].next_input(row) for row in rows])
        inputs, positions = read[:, :1], read[:, 1:]
        if any(row.trunk for row in rows):
            inputs = torch.stack([below[row.trunk] for row in rows if row.trunk])[:, None]
        hidden = lane.forward(inputs, positions, 0, [row.call.adapters for row in rows])
        for row, position in zip(rows, positions[:, 0].tolist(), strict=True):
            row.filled = position + 1
        return hidden[:, -1]

    def _local_log_probs(
        self, sequences: Iterable[Sequence], hidden: Mapping[CacheRow, Tensor]
    ) -> dict[CacheRow, Tensor]:
        """[V] for each expert and anchor that is computed here: one output product a lane."""
        by_lane: dict[str, list[CacheRow]] = {}
        for sequence in sequences:
            local = [row for row in sequence.experts if not row.call.remote]
            for row in (*local, *sequence.anchors):
                by_lane.setdefault(row.lane, []).append(row)
        log_probs: dict[CacheRow, Tensor] = {}
        for name, rows in by_lane.items():
            states = torch.stack([hidden[row] for row in rows])
            said = self.lanes[name].log_probs(states, [row.call.adapters for row in rows])
            log_probs.update(zip(rows, said, strict=True))
        return log_probs

    def _weights(
        self, sequences: tuple[Sequence, ...], hidden: Mapping[CacheRow, Tensor]
    ) -> Tensor:
        """[R, E]; all of the sequences have a PCM, or none has."""
        states = [hidden[sequence.pcm] for sequence in sequences if sequence.pcm]
        if not states:
            return torch.tensor([s.plan.fixed for s in sequences], device=self._device)
        poles = torch.tensor([s.plan.poles for s in sequences], device=states[0].device)
        alpha = self.head.expert_weights(torch.stack(states), poles).to(self._device)
        return top_one(alpha) if sequences[0].plan.top else alpha


def strength_of(request: GenerationRequest, indices: Tensor) -> Tensor:
    """B of the space ``strength`` at tokens of its reply, 0 for the first; [...] to [...]."""
    return fading_strength(request.strength, request.settled, request.fade, indices)


def _groups(sequences: Iterable[Sequence], most: int | None) -> list[tuple[Sequence, ...]]:
    """At most so many that can be merged in one go: alike in all but their experts and tokens."""
    groups: dict[tuple[object, ...], list[Sequence]] = {}
    for sequence in sequences:
        asked = sequence.request
        how = (asked.space, asked.strength, asked.settled, asked.fade, asked.plausibility)
        weighed = (sequence.pcm is None, sequence.plan.top)
        key = (len(sequence.experts), *weighed, len(sequence.anchors), *how)
        groups.setdefault(key, []).append(sequence)
    pieces: list[tuple[Sequence, ...]] = []
    for group in groups.values():
        size = most or len(group)
        pieces += [tuple(group[k : k + size]) for k in range(0, len(group), size)]
    return pieces
