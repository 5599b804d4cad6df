"""What lies between the products of a decoder on a CPU, as loops that numba compiles.

Each row is a loop of its own, so its result is the same to the bit whatever other rows there are.
A step of one request has little arithmetic outside of its products: in torch's operators, six for
a norm and twenty for attention, most of its time would go by between them.

Numbers are fp32, adapters may be fp16 seen as int16; D hidden, d a head's width. What is summed is
summed in an order that depends on its length alone.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numba import prange

from mpd_core.models.compiling import HAS_OPENMP, compiled, loop_threads
from mpd_core.models.mix_loops import mix
from mpd_core.models.number_code import (
    ONE,
    ZERO,
    Array,
    Factor,
    Number,
    Whole,
    add_rows,
    dot,
    exp,
    softmax,
)

__all__ = [
    "HAS_OPENMP",
    "add_lora",
    "add_norm",
    "attend",
    "compiled",
    "exp",
    "gated",
    "loop_threads",
    "prepare",
    "store",
]


@compiled()
def _apply_rope(x: Array, cos: Array, sin: Array, scale: Number, out: Array) -> None:
    """out = scale (x cos + rotate(x) sin); the first half of ``sin`` holds rotate's minus sign."""
    half = len(x) // 2
    for i in range(half):
        out[i] = (x[i] * cos[i] + x[half + i] * sin[i]) * scale
    for i in range(half):
        out[half + i] = (x[half + i] * cos[half + i] + x[i] * sin[half + i]) * scale


@compiled()
def _cache_token(parts: Array, cos: Array, sin: Array, keys: Array, values: Array, at: int) -> None:
    """Rotate and cache keys and values of a token; ``keys`` and ``values`` are its row's."""
    kv_heads = len(keys)
    first = len(parts) - 2 * kv_heads
    for k in range(kv_heads):
        _apply_rope(parts[first + k], cos, sin, ONE, keys[k, at])
        values[k, at] = parts[first + kv_heads + k]


@compiled(parallel=True)
def store(
    qkv: Array,
    cos: Array,
    sin: Array,
    keys: Array,
    values: Array,
    places: Whole,
    positions: Whole,
) -> None:
    """What ``attend`` does before it attends to anything."""
    for row in prange(len(qkv)):
        own = places[row]
        for n in range(qkv.shape[1]):
            at = positions[row, n]
            _cache_token(qkv[row, n], cos[row, n], sin[row, n], keys[own], values[own], at)


@compiled(parallel=True)
def attend(
    qkv: Array,
    cos: Array,
    sin: Array,
    keys: Array,
    values: Array,
    places: Whole,
    positions: Whole,
    out: Array,
) -> None:
    """New tokens of each row: rotate them, cache their keys and values, attend to all before them.

    A token that is read alone and one that is read with others give the same bits: others of its
    row here, or in rows of their own with the same place.

    Args:
        qkv: [rows, T, heads + 2 kv_heads, d].
        cos: rotary position embedding (Su et al., 2021), [rows, T, d].
        sin: likewise, its first half negated.
        keys: the cache, [capacity, kv_heads, length, d]; the tokens' own are written.
        values: likewise.
        places: of each row here, its row of the cache, [rows].
        positions: of each token in its row, [rows, T]; it sees what is not behind it.
        out: [rows, T, heads, d].
    """
    rows, tokens, heads, width = out.shape
    kv_heads = keys.shape[1]
    group = heads // kv_heads  # query heads that share a key
    scale = ONE / np.float32(math.sqrt(width))
    for row in prange(rows):
        own = places[row]
        for n in range(tokens):
            at = positions[row, n]
            _cache_token(qkv[row, n], cos[row, n], sin[row, n], keys[own], values[own], at)
    for task in prange(rows * tokens * kv_heads):
        # From both ends in turn: later tokens look back further, and threads take tasks in order.
        place = task // 2 if task % 2 == 0 else rows * tokens * kv_heads - 1 - task // 2
        row, n, k = place // (tokens * kv_heads), place // kv_heads % tokens, place % kv_heads
        length = positions[row, n] + 1
        own_keys, own_values = keys[places[row], k], values[places[row], k]
        query, scores = np.empty(width, np.float32), np.empty((group, length), np.float32)
        for h in range(group):
            own_scores = scores[h]
            _apply_rope(qkv[row, n, k * group + h], cos[row, n], sin[row, n], scale, query)
            for t in range(length):
                own_scores[t] = dot(own_keys[t], query)
            softmax(own_scores)
        mix(scores, own_values, out[row, n, k * group : (k + 1) * group])


@compiled(parallel=True)
def add_norm(x: Array, update: Array, weight: Array, eps: float, out: Array) -> None:
    """update += x, and its RMS norm (Zhang and Sennrich, 2019): y / sqrt(mean(y^2) + eps) * weight.

    x, update and out are [rows, D].
    """
    width = x.shape[1]
    for row in prange(len(x)):
        y = update[row]
        for i in range(width):
            y[i] += x[row, i]
        mean = dot(y, y) / np.float32(width)
        scale = ONE / np.float32(math.sqrt(mean + eps))
        for i in range(width):
            out[row, i] = y[i] * scale * weight[i]


@compiled(parallel=True)
def gated(x: Array, out: Array) -> None:
    """silu(gate) * up (Shazeer, 2020); x [rows, 2 I] has them side by side, out is [rows, I]."""
    width = out.shape[1]
    for row in prange(len(x)):
        for i in range(width):
            gate = x[row, i]
            out[row, i] = gate / (ONE + exp(-gate)) * x[row, width + i]


@compiled(parallel=True)
def add_lora(x: Array, gates: Array, blocks: Whole, a: Factor, b: Factor, y: Array) -> None:
    """y += sum_i gate_i B_i A_i x, where each row has few adapters and reads no others.

    Args:
        x: [rows x T, in].
        gates: each row's weight of each adapter, scaled, [rows, adapters].
        blocks: [blocks, 6]: of each, its adapter, its first row of A, its rank, the first output
            that it adds to, how many, and where its B begins.
        a: all A [r, in] one below the other.
        b: all B [height, r], transposed, one after the other.
        y: [rows x T, out].
    """
    each = len(x) // len(gates)
    for n in prange(len(x)):
        for adapter, first, rank, start, height, place in blocks:
            gate = gates[n // each, adapter]
            if gate != ZERO:
                inner = np.empty(rank, np.float32)
                for r in range(rank):
                    inner[r] = gate * dot(a[first + r], x[n])
                rows_b = b[place : place + rank * height].reshape(rank, height)
                add_rows(inner, rows_b, y[n, start : start + height])


@cache
def prepare() -> None:
    """Compile every loop for this CPU, or take its code from disk, before anyone waits for it."""
    x, row = np.ones((1, 2), np.float32), np.ones((1, 1, 1, 2), np.float32)
    add_norm(x, x.copy(), x[0], 1e-6, x.copy())
    gated(x, np.ones((1, 1), np.float32))
    qkv, keys, values, place = np.repeat(row, 3, axis=2), row.copy(), row.copy(), row[0].copy()
    first = np.zeros((1, 1), np.int64)
    attend(qkv, place, place, keys, values, first[0], first, row)
    store(qkv, place, place, keys, values, first[0], first)
    block = np.array([[0, 0, 1, 0, 2, 0]])
    for a in (x, x.astype(np.float16).view(np.int16)):
        add_lora(x, x[:, :1].copy(), block, a, a[0], x.copy())
