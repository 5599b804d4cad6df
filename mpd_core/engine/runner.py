"""Carries out a schedule on the models: prefill into cache rows, one decode step for all rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mpd_core.engine.distribution import Merged, Mixing, merged
from mpd_core.engine.prefill import CPU_CHUNK, GPU_CHUNK, Lanes, Prefill, Tables
from mpd_core.engine.scheduler import Move, RowTable
from mpd_core.engine.sequence import CacheRow, Sequence
from mpd_core.method.merging import fading_strength
from mpd_core.method.weight_head import WeightHead, top_one
from mpd_core.models.rows import RowModel
from mpd_core.models.step_loops import weigh
from mpd_core.remote.expert import RemoteAnswer
from mpd_core.request import GenerationRequest

KEPT_ROWS = 32
"""About the last eight requests with three experts."""


@dataclass(frozen=True)
class StepOutput:
    """One step of sequences that are merged alike."""

    sequences: tuple[Sequence, ...]
    distribution: Merged
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
        chunk = GPU_CHUNK if self._device.type == "cuda" else CPU_CHUNK
        self.prefill = Prefill(lanes, chunk).advance
        """Writes one chunk of the entering rows' prompts into the cache."""

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

    def rest(self, tables: Tables) -> None:
        """While no request is in flight: give back the memory of all rows but those that are kept.

        They grow again when somebody comes, a page at a time.
        """
        for name, table in tables.items():
            self.lanes[name].cache.give_back(table.kept.values())

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
        logits = self._logits(ready, hidden)
        logits |= {row: a.log_probs.to(self._device) for row, a in answers.items()}
        outputs = []
        for alike in _groups(ready):
            rows = [[logits[row] for row in (*s.experts, *s.anchors)] for s in alike]
            how = self._mixing(alike, self._weights(alike, hidden))
            missing = tuple(
                {k: answers[t].missing for k, t in enumerate(s.experts) if t in answers}
                for s in alike
            )
            outputs.append(StepOutput(alike, merged(rows, how), missing))
        return outputs

    def _mixing(self, sequences: tuple[Sequence, ...], weights: Tensor) -> Mixing:
        like = sequences[0].request
        for row, sequence in enumerate(sequences):
            if sequence.forced_weights is not None:
                weights[row] = weights.new_tensor(sequence.forced_weights)
        # Without anchors there is nothing to move away from: that space is Eq. 1 then.
        moved = like.space != "strength" or bool(sequences[0].anchors)
        indices = torch.tensor([len(s.prefix) + len(s.tokens) for s in sequences])
        strengths = strength_of(like, indices).to(weights.device)
        space = like.space if moved else "probability"
        return Mixing(space, weights, strengths, like.plausibility)

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

    def _logits(
        self, sequences: Iterable[Sequence], hidden: Mapping[CacheRow, Tensor]
    ) -> dict[CacheRow, Tensor]:
        """[V] for each expert and anchor that is computed here: one output product a lane."""
        by_lane: dict[str, list[CacheRow]] = {}
        for sequence in sequences:
            local = [row for row in sequence.experts if not row.call.remote]
            for row in (*local, *sequence.anchors):
                by_lane.setdefault(row.lane, []).append(row)
        logits: dict[CacheRow, Tensor] = {}
        for name, rows in by_lane.items():
            states = torch.stack([hidden[row] for row in rows])
            said = self.lanes[name].logits(states, [row.call.adapters for row in rows])
            logits.update(zip(rows, said, strict=True))
        return logits

    def _weights(
        self, sequences: tuple[Sequence, ...], hidden: Mapping[CacheRow, Tensor]
    ) -> Tensor:
        """[R, E]; all of the sequences have a PCM, or none has."""
        states = [hidden[sequence.pcm] for sequence in sequences if sequence.pcm]
        if not states:
            return torch.tensor([s.plan.fixed for s in sequences], device=self._device)
        poles = torch.tensor([s.plan.poles for s in sequences], device=states[0].device)
        top = sequences[0].plan.top
        if self.head.linear.weight.device.type == "cpu":
            return _in_loops(self.head, torch.stack(states), poles, top=top).to(self._device)
        alpha = self.head.expert_weights(torch.stack(states), poles).to(self._device)
        return top_one(alpha) if top else alpha


def _in_loops(head: WeightHead, states: Tensor, poles: Tensor, *, top: bool) -> Tensor:
    """[R, E] from last states [R, D]."""
    alpha = torch.empty(poles.shape)
    weight, bias, pairs = (p.detach().numpy() for p in (*head.linear.parameters(), head.pair_bias))
    weigh(states.float().numpy(), weight, bias, pairs, poles.numpy(), top, alpha.numpy())
    return alpha


def strength_of(request: GenerationRequest, indices: Tensor) -> Tensor:
    """B of the space ``strength`` at tokens of its reply, 0 for the first; [...] to [...]."""
    return fading_strength(request.strength, request.settled, request.fade, indices)


def _groups(sequences: Iterable[Sequence]) -> list[tuple[Sequence, ...]]:
    """Those that can be merged in one go: alike in all but their experts and tokens."""
    groups: dict[tuple[object, ...], list[Sequence]] = {}
    for sequence in sequences:
        asked = sequence.request
        how = (asked.space, asked.strength, asked.settled, asked.fade, asked.plausibility)
        weighed = (sequence.pcm is None, sequence.plan.top)
        key = (len(sequence.experts), *weighed, len(sequence.anchors), *how)
        groups.setdefault(key, []).append(sequence)
    return [tuple(group) for group in groups.values()]
