"""One chunk of a mixture of experts, in each space: code that ``merge_loops`` is compiled with."""

from __future__ import annotations

import math

import numpy as np

from mpd_core.models.chunk_code import sum_chunk
from mpd_core.models.compiling import compiled
from mpd_core.models.number_code import ONE, ZERO, Array, Number, exp, log

PROBABILITY, LOGIT, STRENGTH = range(3)
WEIGHED, ALIKE, SUMS = range(3, 6)
"""Of a chunk of a mixture, behind ``LARGEST`` and so on: -sum of q ln q, where q are probabilities
mixed with the experts' weights, or with equal ones."""


@compiled()
def equal_weights(experts: int) -> Array:
    weights = np.empty(experts, np.float32)
    weights[:] = ONE / np.float32(experts)
    return weights


@compiled()
def are_same(one: Array, other: Array) -> bool:
    same = True
    for i in range(len(one)):
        same &= one[i] == other[i]
    return same


@compiled("reassoc", "nsz")
def _surprise(said: Array, weights: Array, mixed: Array) -> Number:
    """-sum of q ln q of probabilities mixed in that way; ``mixed`` is written over."""
    mixed[:] = ZERO
    for i in range(len(weights)):
        for v in range(len(mixed)):
            mixed[v] += weights[i] * exp(said[i, v])
    total = ZERO
    for v in range(len(mixed)):
        total -= mixed[v] * log(mixed[v])
    return total


@compiled()
def _mix_probabilities(said: Array, weights: Array, total: Array, out: Array) -> None:
    """ln of the weighted sum, over its largest part: what is unlikely stays what it is."""
    shares = np.empty(len(weights), np.float32)
    for i in range(len(weights)):
        shares[i] = -np.inf if weights[i] == ZERO else math.log(weights[i])
    if len(weights) == 1:
        for v in range(len(out)):
            out[v] = shares[0] + said[0, v]
        return
    out[:] = -np.inf
    total[:] = ZERO
    for i in range(len(weights)):
        for v in range(len(out)):
            own = shares[i] + said[i, v]
            out[v] = own if own > out[v] else out[v]
    for i in range(len(weights)):
        for v in range(len(out)):
            total[v] += exp(shares[i] + said[i, v] - (out[v] if out[v] > -np.inf else ZERO))
    for v in range(len(out)):
        out[v] += log(total[v])


@compiled()
def _mix_logits(said: Array, weights: Array, out: Array) -> None:
    out[:] = ZERO
    for i in range(len(weights)):
        for v in range(len(out)):
            out[v] += weights[i] * said[i, v]


@compiled()
def _shift(anchors: Array, strength: Number, out: Array) -> None:
    """The first anchor, moved by so many times what ``out`` is beyond the last."""
    first, last = anchors[0], anchors[len(anchors) - 1]
    for v in range(len(out)):
        out[v] = first[v] + strength * (out[v] - last[v])


@compiled()
def _take_out(said: Array, floors: Array, out: Array) -> None:
    """-inf for tokens that are below each row's floor."""
    for v in range(len(out)):
        below = True
        for i in range(len(floors)):
            below &= said[i, v] < floors[i]
        out[v] = -np.inf if below else out[v]


@compiled()
def mix(
    said: Array, weights: Array, floors: Array, how: tuple[int, float], out: Array, sums: Array
) -> None:
    """One chunk of one mixture, and its sums."""
    experts, scratch = len(weights), np.empty(len(out), np.float32)
    space, strength = how
    if space == PROBABILITY:
        _mix_probabilities(said[:experts], weights, scratch, out)
    else:
        _mix_logits(said, weights, out)
    if space == STRENGTH:
        _shift(said[experts:], np.float32(strength), out)
        if len(floors):
            _take_out(said, floors, out)
    sum_chunk(out, sums)
    if experts > 1:
        equal = equal_weights(experts)
        if space != PROBABILITY:
            sums[WEIGHED] = _surprise(said, weights, scratch)
        if not are_same(weights, equal):
            sums[ALIKE] = _surprise(said, equal, scratch)
