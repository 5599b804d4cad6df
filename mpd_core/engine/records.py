"""From a distribution and a chosen token to the plain record that clients see."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mpd_core.engine.plan import ANCHOR, PLAIN
from mpd_core.engine.runner import Distribution
from mpd_core.errors import EngineError
from mpd_core.method.merging import disagreements, entropy
from mpd_core.request import Sampling
from mpd_core.trace import Candidate, FinishReason, StepRecord

NOT_FINITE = (
    "The next token's distribution is not finite: the base, an adapter or the PCM holds or reaches "
    'numbers beyond its precision; try base.precision = "fp32", or another preference or method.'
)


def finish_reason(
    tokens: Sequence[int], sampling: Sampling, end_of_turn: frozenset[int]
) -> FinishReason | None:
    """Why a reply with these tokens is over, or None while it is not."""
    if tokens[-1] in end_of_turn:
        return "stop"
    return "length" if len(tokens) >= sampling.max_new_tokens else None


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


def step_stats(said: Distribution, tokens: Tensor, top_k: int) -> list[StepStats]:
    """Describe one step of several replies; everything leaves the device in one transfer.

    Args:
        said: the experts' and the merged distributions.
        tokens: chosen ids, [R].
        top_k: how many candidates to take from the mixture and from each expert.
    """
    both = torch.cat([said.merged[:, None], said.log_probs], dim=1)  # [R, 1 + E, V]
    ids = both.topk(min(top_k, both.shape[-1]), dim=-1).indices.flatten(1)
    ids = torch.cat([tokens[:, None], ids], dim=1)  # [R, 1 + n]
    if said.anchors is not None:  # recorded, but their own favourites are nobody's candidates
        both = torch.cat([both, said.anchors], dim=1)
    table = both.gather(2, ids[:, None].expand(-1, both.shape[1], -1))  # [R, 1 + E, 1 + n]
    spread = entropy(said.merged)
    known = spread if said.space == "probability" else None
    weighted, alike = disagreements(said.log_probs, said.weights, known)
    columns = (
        ids,
        table.transpose(1, 2).flatten(1),
        said.weights,
        spread[:, None],
        weighted[:, None],
        alike[:, None],
    )
    rows = torch.cat([column.double() for column in columns], dim=1).cpu().tolist()
    return [_stats_of(row, ids.shape[1], both.shape[1]) for row in rows]


def _stats_of(row: list[float], count: int, width: int) -> StepStats:
    ids, rest = [int(number) for number in row[:count]], row[count:]
    table = [rest[k * width : (k + 1) * width] for k in range(count)]
    unique = dict(zip(ids[1:], table[1:], strict=True))
    *weights, spread, weighted, alike = rest[count * width :]
    log_probs = [table[0], *unique.values()]
    return StepStats(ids[0], tuple(unique), log_probs, weights, spread, weighted, alike)


def make_step(
    index: int,
    text: str,
    experts: tuple[str, ...],
    stats: StepStats,
    missing: Mapping[int, float],
    name: Callable[[int], str],
) -> StepRecord:
    """The record of one step.

    Args:
        index: of the step, from 0.
        text: what the token adds to the reply.
        experts: their names.
        stats: of this step.
        missing: by index of a remote expert, probability that its server did not list.
        name: the text of a candidate.

    Raises:
        EngineError: what the experts said of the token is no distribution.
    """
    if not stats.is_finite:
        raise EngineError(NOT_FINITE)
    chosen, *others = stats.log_probs
    rows = (*experts, PLAIN, ANCHOR)[: len(chosen) - 1]
    candidates = [
        Candidate(i, name(i), min(1.0, math.exp(row[0])), _named(rows, row[1:]))
        for i, row in zip(stats.candidates, others, strict=True)
    ]
    return StepRecord(
        index=index,
        token_id=stats.token,
        text=text,
        weights=_named(experts, stats.weights),
        probability=min(1.0, math.exp(chosen[0])),
        logprobs=_named(rows, chosen[1:]),
        entropy=stats.entropy,
        disagreement=stats.disagreement,
        divergence=stats.divergence,
        top_k=tuple(sorted(candidates, key=lambda candidate: -candidate.probability)),
        missing={experts[k]: mass for k, mass in missing.items()},
    )


def _named(names: tuple[str, ...], values: list[float]) -> dict[str, float]:
    return dict(zip(names, values, strict=True))
