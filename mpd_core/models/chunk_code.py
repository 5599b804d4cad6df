"""What is to be known of one distribution, chunk by chunk of its vocabulary.

A chunk stays in a core's cache. What is summed is summed within a chunk in an order that depends on
its length alone, then chunk by chunk, in fp64: bits depend neither on threads nor on who else is
served.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from mpd_core.models.compiling import compiled
from mpd_core.models.number_code import LEAST, ZERO, Array, Number, Whole, exp

CHUNK = 1024
LANES = 64
LARGEST, TOTAL, PRODUCT = range(3)
"""Of a chunk: its largest x; the sum of e^(x - largest), and of that times (x - largest)."""
LOG_SUM, ENTROPY = range(2)
"""Of a distribution: ln of its sum of e^x, and its entropy once it is normalised."""

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
