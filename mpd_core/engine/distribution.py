"""What experts say about next tokens, merged, with what records say of it.

On a CPU all of it is two compiled passes over the vocabulary; elsewhere, and in the reference, it
is torch's operators.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mpd_core.method.merging import disagreements, entropy, merge
from mpd_core.models import chunk_code as chunks
from mpd_core.models import merge_loops as loops
from mpd_core.request import Space

Numbers = NDArray[np.float32]


@dataclass(frozen=True)
class StepStats:
    """Statistics of one decoding step of one reply, as plain numbers; E experts."""

    token: int
    candidates: tuple[int, ...]
    """Ids of the union of the top k of the mixture and of each expert."""
    log_probs: list[list[float]]
    """Of the token and of each candidate: under the mixture, then under each expert and the A
    anchors, [1+n][1+E+A]."""
    weights: list[float]
    entropy: float
    disagreement: float
    divergence: float

    @property
    def is_finite(self) -> bool:
        """Whether this came of a distribution: its largest value is NaN where any is."""
        return math.isfinite(self.log_probs[1][0])


@dataclass(frozen=True)
class Mixing:
    """How sequences that are merged alike are merged."""

    space: Space
    weights: Tensor
    """alpha, [R, E]."""
    strengths: Tensor
    """B of the space ``strength``, [R]."""
    plausibility: float
    """Of that space."""


@dataclass(frozen=True)
class Distribution:
    """What the experts of R sequences say about their next tokens, in torch's operators."""

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

    @classmethod
    def of(cls, logits: Tensor, how: Mixing) -> Distribution:
        """From logits, normalised or not, of experts and then of anchors, [R, E + A, V]."""
        experts = how.weights.shape[1]
        said = logits.log_softmax(dim=-1)
        anchors = said[:, experts:] if said.shape[1] > experts else None
        said = said[:, :experts]
        numbers = (how.strengths, how.plausibility)
        merged = merge(how.space, said, how.weights, anchors, *numbers)
        return cls(said, how.weights, merged, how.space, anchors)

    def describe(self, tokens: Tensor, top_k: int) -> list[StepStats]:
        """One step of each, whose chosen ids are ``tokens``, [R]; the mixture and each expert have
        ``top_k`` candidates. Everything leaves the device in one transfer.
        """
        both = torch.cat([self.merged[:, None], self.log_probs], dim=1)  # [R, 1 + E, V]
        ids = both.topk(min(top_k, both.shape[-1]), dim=-1).indices.flatten(1)
        ids = torch.cat([tokens[:, None], ids], dim=1)  # [R, 1 + n]
        if self.anchors is not None:  # recorded, but their own favourites are nobody's candidates
            both = torch.cat([both, self.anchors], dim=1)
        table = both.gather(2, ids[:, None].expand(-1, both.shape[1], -1))  # [R, 1 + E + A, 1 + n]
        spread = entropy(self.merged)
        known = spread if self.space == "probability" else None
        weighted, alike = disagreements(self.log_probs, self.weights, known)
        columns = (
            ids,
            table.transpose(1, 2).flatten(1),
            self.weights,
            spread[:, None],
            weighted[:, None],
            alike[:, None],
        )
        rows = torch.cat([column.double() for column in columns], dim=1).cpu().tolist()
        (count, width), steps = (ids.shape[1], both.shape[1]), []
        for row in rows:
            own, rest = [int(number) for number in row[:count]], row[count:]
            said = [rest[k * width : (k + 1) * width] for k in range(count)]
            *weights, spread, weighted, alike = rest[count * width :]
            steps.append(_stats(own, said, weights, [spread, weighted, alike]))
        return steps


def _stats(
    ids: list[int], table: list[list[float]], weights: list[float], numbers: list[float]
) -> StepStats:
    unique = dict(zip(ids[1:], table[1:], strict=True))
    return StepStats(ids[0], tuple(unique), [table[0], *unique.values()], weights, *numbers)


class LoopDistribution:
    """The same in compiled loops."""

    def __init__(self, rows: Sequence[Sequence[Tensor]], how: Mixing) -> None:
        """Arguments as of ``merged``, in fp32 on the CPU; each lies in one piece."""
        self._rows, self._weights = rows, how.weights.contiguous()
        self._at = np.array([[row.data_ptr() for row in own] for own in rows])
        (count, own), vocabulary = self._at.shape, len(rows[0][0])
        pieces = -(-vocabulary // chunks.CHUNK)
        self._row_sums = np.empty((count, own, pieces, 3), np.float32)
        self._numbers = np.empty((count, own, 2))
        sums = self._row_sums.reshape(-1, pieces, 3), self._numbers.reshape(-1, 2)
        loops.sum_up(self._at.ravel(), vocabulary, *sums)
        self.merged = torch.empty(count, vocabulary)
        self._merged = self.merged.numpy()
        self._sums = np.empty((count, pieces, chunks.SUMS), np.float32)
        self._mixtures = np.empty((count, 3))
        loops.merge(
            self._at,
            self._numbers,
            self._weights.numpy(),
            get_args(Space).index(how.space),
            how.strengths.double().numpy(),
            self._floors(how),
            self._merged,
            self._sums,
            self._mixtures,
        )

    def _floors(self, how: Mixing) -> Numbers:
        count, experts = self._weights.shape
        if how.space != "strength" or how.plausibility == 0.0:
            return np.empty((count, 0), np.float32)
        held: Numbers = self._row_sums[:, : experts + 1, :, chunks.LARGEST].max(axis=-1)
        log_sums: Numbers = self._numbers[:, : experts + 1, chunks.LOG_SUM].astype(np.float32)
        return (held - log_sums) + np.float32(math.log(how.plausibility))

    def describe(self, tokens: Tensor, top_k: int) -> list[StepStats]:
        """As ``Distribution.describe``."""
        count, experts = self._weights.shape
        best = np.empty((count, 1 + experts, min(top_k, self._merged.shape[1])), np.int64)
        ids = best.reshape(count, -1)
        table = np.empty((count, 1 + ids.shape[1], 1 + self._at.shape[1]))
        loops.describe(
            self._at,
            self._numbers,
            self._row_sums,
            self._merged,
            self._sums,
            tokens.numpy(),
            best,
            table,
        )
        every = zip(
            tokens.tolist(),
            ids.tolist(),
            table.tolist(),
            self._weights.tolist(),
            self._mixtures.tolist(),
            strict=True,
        )
        return [_stats([token, *own], *rest) for token, own, *rest in every]


Merged = Distribution | LoopDistribution


def merged(rows: Sequence[Sequence[Tensor]], how: Mixing) -> Merged:
    """From logits, normalised or not, of each one's experts and then anchors, [R][E + A] [V]."""
    if how.weights.device.type == "cpu":
        return LoopDistribution(rows, how)
    return Distribution.of(torch.stack([torch.stack(list(own)) for own in rows]), how)


@cache
def prepare() -> None:
    """Compile the loops for this CPU, or take their code from disk."""
    how = Mixing("probability", torch.ones(1, 1), torch.ones(1), 0.0)
    LoopDistribution([[torch.zeros(2)]], how).describe(torch.zeros(1, dtype=torch.long), 1)
