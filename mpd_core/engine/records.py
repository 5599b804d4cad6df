"""From a distribution and a chosen token to the plain record that clients see."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from mpd_core.engine.distribution import StepStats
from mpd_core.engine.plan import ANCHOR, PLAIN
from mpd_core.errors import EngineError
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
