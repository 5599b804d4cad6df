"""Chunks of distributions over a vocabulary, and of mixtures of them in each space.

A chunk stays in a core's cache. What is summed is summed within a chunk in an order that depends on
its length alone, then chunk by chunk, in fp64: bits depend neither on threads nor on who else is
served.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from mpd_core.models.compiling import compiled
from mpd_core.models.number_code import LEAST, ONE, ZERO, Array, Number, Whole, exp, log

CHUNK = 1024
LANES = 64
LARGEST, TOTAL, PRODUCT = range(3)
"""Of a chunk: its largest x; the sum of e^(x - largest), and of that times (x - largest)."""
LOG_SUM, ENTROPY = range(2)
"""Of a distribution: ln of its sum of e^x, and its entropy once it is normalised."""
PROBABILITY, LOGIT, STRENGTH = range(3)
WEIGHED, ALIKE, SUMS = range(3, 6)
"""Of a chunk of a mixture, behind ``LARGEST`` and so on: -sum of q ln q, where q are probabilities
mixed with the experts' weights, or with equal ones."""

Double = NDArray[np.float64]


@compiled()
def _largest(x: Array) -> Number:
    """That of what is no NaN; lanes are compared, which a loop over one number is not turned to."""
    lanes = np.empty(LANES, np.float32)
    lanes[:] = -np.inf
    whole = len(x) // LANES * LANES
    for start in range(0, whole, LANES):
        part = x[start : start + LANES]
        for i in range(LANES):
            lanes[i] = part[i] if part[i] > lanes[i] else lanes[i]
    largest: Number = lanes[0]
    for i in range(1, LANES):
        largest = lanes[i] if lanes[i] > largest else largest
    for i in range(whole, len(x)):
        largest = x[i] if x[i] > largest else largest
    return largest


@compiled("reassoc", "nsz")
def sum_chunk(x: Array, out: Array) -> None:
    """``LARGEST``, ``TOTAL`` and ``PRODUCT`` of a chunk; NaN where it holds one."""
    largest = _largest(x)
    below = largest if largest > -np.inf else ZERO  # nothing in it is possible, or all is NaN
    total, product = ZERO, ZERO
    for i in range(len(x)):
        far = x[i] - below
        far = LEAST if far < LEAST else far
        power = exp(far)
        total += power
        product += power * far
    out[LARGEST], out[TOTAL], out[PRODUCT] = largest, total, product


@compiled()
def join_chunks(chunks: Array, out: Double) -> None:
    """``LOG_SUM`` and ``ENTROPY`` from all chunks of a distribution."""
    largest, total, product = -np.inf, 0.0, 0.0
    for chunk in range(len(chunks)):
        highest = float(chunks[chunk, LARGEST])
        largest = highest if highest > largest else largest
    for chunk in range(len(chunks)):
        own, part = np.float64(chunks[chunk, TOTAL]), np.float64(chunks[chunk, PRODUCT])
        far = np.float64(chunks[chunk, LARGEST]) - largest
        if far > -1000.0 or own != own:
            scale = math.exp(far)
            total += scale * own
            product += scale * (part + far * own)
    if total == 0.0:
        total = np.nan  # nothing is possible
    out[LOG_SUM] = largest + math.log(total)
    out[ENTROPY] = math.log(total) - product / total


@compiled()
def _insert(value: Number, place: int, values: Array, places: Whole) -> None:
    """Among the best, largest first; of equal ones the first comes first."""
    k = len(values) - 1
    while k > 0 and values[k - 1] < value:
        values[k], places[k] = values[k - 1], places[k - 1]
        k -= 1
    values[k], places[k] = value, place


@compiled()
def find_best(x: Array, chunks: Array, places: Whole) -> None:
    """Ids of the largest, as many as fit; where fewer are above -inf, the first of all again.

    They lie in the chunks with the largest values, no more of them than there are ids.
    """
    values = np.empty(len(places), np.float32)
    values[:] = -np.inf
    places[:] = -1
    for chunk in range(len(chunks)):
        if chunks[chunk, LARGEST] > values[-1]:
            _insert(chunks[chunk, LARGEST], chunk, values, places)
    least = values[-1]
    values[:] = -np.inf
    places[:] = -1
    for chunk in range(len(chunks)):
        if chunks[chunk, LARGEST] >= least:
            for v in range(chunk * CHUNK, min((chunk + 1) * CHUNK, len(x))):
                if x[v] > values[-1]:
                    _insert(x[v], v, values, places)
    for k in range(len(places)):
        places[k] = max(0, places[0]) if places[k] < 0 else places[k]


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
