"""What follows the experts' distributions, as two passes over the vocabulary on a CPU.

The same as ``method.merging``, which is the definition: a test holds them together. In torch's
operators a step's merging, statistics and candidates are some forty passes.

V tokens, C chunks of them, E experts, A anchors.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from mpd_core.models.chunk_code import (
    ALIKE,
    CHUNK,
    ENTROPY,
    LOG_SUM,
    PROBABILITY,
    WEIGHED,
    Double,
    are_same,
    equal_weights,
    find_best,
    join_chunks,
    mix,
    sum_chunk,
)
from mpd_core.models.compiling import compiled
from mpd_core.models.number_code import Array, Whole, array_at

SPREAD, APART, DIVERGENCE = range(3)
"""Of a mixture: its entropy, and how far its experts are apart under their weights, and equal."""


@compiled()
def _apart(mixed: float, weights: Array, numbers: Double) -> float:
    """Entropy of a mixture of probabilities over the mean of its experts': not below 0."""
    for i in range(len(weights)):
        mixed -= np.float64(weights[i]) * numbers[i, ENTROPY]
    return 0.0 if mixed < 0.0 else mixed


@compiled()
def _differ(space: int, weights: Array, numbers: Double, sums: Array, out: Double) -> None:
    """``APART`` and ``DIVERGENCE``."""
    experts = len(weights)
    if experts == 1:
        out[APART] = out[DIVERGENCE] = 0.0
        return
    weighed, alike = 0.0, 0.0
    for chunk in range(len(sums)):
        weighed, alike = weighed + sums[chunk, WEIGHED], alike + sums[chunk, ALIKE]
    out[APART] = _apart(out[SPREAD] if space == PROBABILITY else weighed, weights, numbers)
    out[DIVERGENCE] = out[APART]
    equal = equal_weights(experts)
    if not are_same(weights, equal):
        out[DIVERGENCE] = _apart(alike, equal, numbers)


@compiled(parallel=True)
def sum_up(rows: Whole, vocabulary: int, sums: Array, numbers: Double) -> None:
    """What is to be known of distributions before they are merged.

    Args:
        rows: addresses of their logits, [n].
        vocabulary: V.
        sums: written, of each and its chunks, ``LARGEST``, ``TOTAL`` and ``PRODUCT``, [n, C, 3].
        numbers: written, ``LOG_SUM`` and ``ENTROPY`` of each, [n, 2].
    """
    chunks = sums.shape[1]
    for task in prange(len(rows) * chunks):
        row, first = task // chunks, task % chunks * CHUNK
        x = array_at(rows[row], vocabulary, np.float32)
        sum_chunk(x[first : first + CHUNK], sums[row, task % chunks])
    for row in range(len(rows)):
        join_chunks(sums[row], numbers[row])


@compiled(parallel=True)
def merge(
    rows: Whole,
    numbers: Double,
    weights: Array,
    space: int,
    strengths: Double,
    floors: Array,
    merged: Array,
    sums: Array,
    mixtures: Double,
) -> None:
    """Mixtures of requests that are merged alike.

    Args:
        rows: addresses of the logits of each one's experts, then anchors, [R, E + A].
        numbers: of each of them, see ``sum_up``, [R, E + A, 2].
        weights: alpha, [R, E].
        space: ``PROBABILITY``, ``LOGIT`` or ``STRENGTH``.
        strengths: B of each, [R].
        floors: log-probabilities; what is below those of all experts and of the first anchor is
            taken out, [R, E + 1], or [R, 0].
        merged: written, log-probabilities, [R, V].
        sums: written, of every mixture and chunk, [R, C, 5].
        mixtures: written, ``SPREAD``, ``APART`` and ``DIVERGENCE``, [R, 3].
    """
    chunks, (count, vocabulary), own = sums.shape[1], merged.shape, rows.shape[1]
    for task in prange(count * chunks):
        one, chunk = task // chunks, task % chunks
        first, end = chunk * CHUNK, min((chunk + 1) * CHUNK, vocabulary)
        said = np.empty((own, end - first), np.float32)
        for i in range(own):
            x = array_at(rows[one, i], vocabulary, np.float32)
            log_sum = np.float32(numbers[one, i, LOG_SUM])
            for v in range(end - first):
                said[i, v] = x[first + v] - log_sum
        how = (space, strengths[one])
        mix(said, weights[one], floors[one], how, merged[one, first:end], sums[one, chunk])
    whole = np.empty(2)
    for one in range(count):
        join_chunks(sums[one], whole)
        mixtures[one, SPREAD] = whole[ENTROPY]
        _differ(space, weights[one], numbers[one], sums[one], mixtures[one])
        if space != PROBABILITY:
            log_sum = np.float32(whole[LOG_SUM])
            for v in range(vocabulary):
                merged[one, v] -= log_sum


@compiled(parallel=True)
def describe(
    rows: Whole,
    numbers: Double,
    row_sums: Array,
    merged: Array,
    sums: Array,
    tokens: Whole,
    best: Whole,
    table: Double,
) -> None:
    """Candidates, and what everybody says of them; other arguments as ``merge`` has left them.

    Args:
        row_sums: see ``sum_up``, [R, E + A, C, 3].
        tokens: chosen, [R].
        best: written, ids of the k likeliest to the mixture, then to each expert, [R, 1 + E, k].
        table: written, log-probabilities of the token, then of each of these, to the mixture, the
            experts and the anchors, [R, 1 + (1 + E) k, 1 + E + A].
    """
    listed = best.shape[1]
    for task in prange(len(rows) * listed):
        one, which = task // listed, task % listed
        if which == 0:
            find_best(merged[one], sums[one], best[one, 0])
        else:
            x = array_at(rows[one, which - 1], merged.shape[1], np.float32)
            find_best(x, row_sums[one, which - 1], best[one, which])
    for one in range(len(rows)):
        ids = best[one].ravel()
        for k in range(table.shape[1]):
            token = tokens[one] if k == 0 else ids[k - 1]
            table[one, k, 0] = merged[one, token]
            for i in range(rows.shape[1]):
                x = array_at(rows[one, i], merged.shape[1], np.float32)
                table[one, k, 1 + i] = x[token] - np.float32(numbers[one, i, LOG_SUM])
