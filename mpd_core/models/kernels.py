"""What lies between the products of a decoder on a CPU, as loops that numba compiles.

Each row is a loop of its own, so its result is the same to the bit whatever other rows there are.
A step of one request has little arithmetic outside of its products: in torch's operators, six for
a norm and twenty for attention, most of its time would go by between them.

Loops run on OpenMP threads, the very ones that torch's products run on and as many (``threads``
says how many): torch's library is loaded first and answers for both. A pool of their own would have
to take turns with torch's, which waits for work without sleeping; without OpenMP they run on one
core instead.

Numbers are fp32, adapters may be fp16 seen as int16; D hidden, d a head's width. What is summed is
summed in an order that depends on its length alone.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from mpd_core.models.threads import settle

settle()  # numba reads how many threads there are when a loop is first compiled

F = TypeVar("F", bound=Callable[..., Any])
Number = float | np.float32
Array = NDArray[np.float32]
Factor = NDArray[np.float32] | NDArray[np.int16]
Whole = NDArray[np.int64]


def find_openmp() -> bool:
    """Whether numba's threads can be OpenMP's."""
    try:
        importlib.import_module("numba.np.ufunc.omppool")
    except ImportError:
        return False
    return True


HAS_OPENMP = find_openmp()
"""Whether loops share torch's threads; numba needs the system's library for it."""
if HAS_OPENMP:
    numba.config.THREADING_LAYER = "omp"

ZERO, ONE = np.float32(0), np.float32(1)
LEAST = np.float32(-87)  # its exponential is about the least that fp32 holds in full
MOST = np.float32(89)  # 2^128 is infinite, as fp32's exponential is from 88.7 on
PER_LN2 = np.float32(1 / math.log(2))
LN2, LN2_REST = np.float32(0.693359375), np.float32(math.log(2) - 0.693359375)
ROUND = np.float32(1.5 * 2**23)  # added and taken off again: the nearest whole number
EXP = tuple(np.float32(1 / math.factorial(n)) for n in range(8))


def compiled(*fastmath: str, parallel: bool = False, calls: bool = False) -> Callable[[F], F]:
    """Compile a function when it is first called, and keep the code on disk.

    Args:
        fastmath: LLVM's flags; ``contract``, fused multiply-add, is always on.
        parallel: share its outer loop out among threads.
        calls: it calls loops, of other files, too.
    """
    threaded = parallel and HAS_OPENMP
    options = {"nogil": True, "fastmath": {"contract", *fastmath}, "parallel": threaded}
    # On disk, code for threads and for none have one name.
    kept = HAS_OPENMP or not (parallel or calls)

    def decorate(function: F) -> F:
        try:
            made = njit(cache=kept, **options)(function)
        except RuntimeError:  # nowhere to write: each process compiles for itself
            return cast(F, njit(**options)(function))
        if kept:  # or code would be taken from disk whose callees have changed since
            made._cache._cache_file._source_stamp = _stamp()
        return cast(F, made)

    return decorate


@cache
def _stamp() -> str:
    """What all loops are written in; numba itself looks at a function's own file alone."""
    here = Path(__file__)
    files = (here, here.with_name("vector_code.py"), *sorted(here.parent.glob("*_loops.py")))
    return sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


@intrinsic  # type: ignore[untyped-decorator]
def _power_of_two(_: Any, shifted: Any) -> Any:
    """2^n, where ``shifted`` is n + ROUND: of n from -126 to 127, and infinite for 128.

    The last bits of such a sum are n, whose lowest nine, with the bias, become the exponent: no
    conversion to a whole number, which LLVM leaves undefined for NaN.
    """

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        bits = ir.IntType(32)
        exponent = builder.add(builder.bitcast(args[0], bits), bits(127))
        return builder.bitcast(builder.shl(exponent, bits(23)), ir.FloatType())

    return types.float32(shifted), generate


@intrinsic  # type: ignore[untyped-decorator]
def _to_fp32(_: Any, value: Any) -> Any:
    """An fp32 as it is, an int16 as the fp16 whose bits it has."""

    def of_half(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.fpext(builder.bitcast(args[0], ir.HalfType()), ir.FloatType())

    def itself(_context: Any, _builder: Any, _signature: Any, args: Any) -> Any:
        return args[0]

    return types.float32(value), of_half if value == types.int16 else itself


@compiled()
def exp(x: Number) -> Number:
    """e^x to fp32's precision: 2^n e^r, where |r| <= ln(2) / 2 and e^r a series.

    From about 88.4 on infinite, of less than -87 that of -87, of NaN NaN: what is broken has to be
    seen in what comes of it.
    """
    x = LEAST if x < LEAST else x  # comparisons that let NaN through
    x = MOST if x > MOST else x
    shifted = x * PER_LN2 + ROUND
    n = shifted - ROUND
    r = (x - n * LN2) - n * LN2_REST
    series = EXP[6] + EXP[7] * r
    series = EXP[5] + series * r
    series = EXP[4] + series * r
    series = EXP[3] + series * r
    series = EXP[2] + series * r
    series = EXP[1] + series * r
    series = EXP[0] + series * r
    power: Number = _power_of_two(shifted)
    return series * power


@compiled("reassoc", "nsz")
def _dot(x: Factor, y: Array) -> Number:
    total = ZERO
    for i in range(len(x)):
        total += _to_fp32(x[i]) * y[i]
    return total


@compiled("reassoc", "nsz")
def _sum(x: Array) -> Number:
    total = ZERO
    for i in range(len(x)):
        total += x[i]
    return total


@compiled("nsz")
def _largest(x: Array) -> Number:
    largest: Number = x[0]
    for i in range(len(x)):
        largest = max(largest, x[i])
    return largest


@compiled()
def _softmax(x: Array) -> None:
    largest = _largest(x)
    for i in range(len(x)):
        x[i] = exp(x[i] - largest)
    scale = ONE / _sum(x)
    for i in range(len(x)):
        x[i] *= scale


@compiled()
def _add_rows(weights: Array, rows: Factor, total: Array) -> None:
    """total += sum_t w_t r_t, t in order; four at a time, so that sums stay in registers."""
    length, by_four = len(weights), len(weights) // 4 * 4
    for t in range(0, by_four, 4):
        w0, w1, w2, w3 = weights[t], weights[t + 1], weights[t + 2], weights[t + 3]
        r0, r1, r2, r3 = rows[t], rows[t + 1], rows[t + 2], rows[t + 3]
        for i in range(len(total)):
            start = (total[i] + w0 * _to_fp32(r0[i])) + w1 * _to_fp32(r1[i])
            total[i] = (start + w2 * _to_fp32(r2[i])) + w3 * _to_fp32(r3[i])
    for t in range(by_four, length):
        row = rows[t]
        for i in range(len(total)):
            total[i] += weights[t] * _to_fp32(row[i])


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
        query, scores = np.empty(width, np.float32), np.empty(length, np.float32)
        for h in range(k * group, (k + 1) * group):
            _apply_rope(qkv[row, n, h], cos[row, n], sin[row, n], scale, query)
            for t in range(length):
                scores[t] = _dot(own_keys[t], query)
            _softmax(scores)
            mixed = out[row, n, h]
            mixed[:] = ZERO
            _add_rows(scores, own_values, mixed)


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
        mean = _dot(y, y) / np.float32(width)
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
                    inner[r] = gate * _dot(a[first + r], x[n])
                rows_b = b[place : place + rank * height].reshape(rank, height)
                _add_rows(inner, rows_b, y[n, start : start + height])


def loop_threads() -> int:
    """How many threads the loops run on."""
    return int(numba.get_num_threads()) if HAS_OPENMP else 1


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
