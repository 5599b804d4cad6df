"""What loops over numbers are made of: exponentials, logarithms, sums, and bits seen otherwise.

Numbers are fp32, factors of adapters may be fp16 seen as int16. What is summed is summed in an
order that depends on its length alone.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils, errors
from numba.extending import intrinsic
from numba.np import arrayobj
from numpy.typing import NDArray

from mpd_core.models.compiling import compiled

Number = float | np.float32
Array = NDArray[np.float32]
Factor = NDArray[np.float32] | NDArray[np.int16]
Whole = NDArray[np.int64]

ZERO, ONE = np.float32(0), np.float32(1)
LEAST = np.float32(-87)  # its exponential is about the least that fp32 holds in full
MOST = np.float32(89)  # 2^128 is infinite, as fp32's exponential is from 88.7 on
PER_LN2 = np.float32(1 / math.log(2))
LN2, LN2_REST = np.float32(0.693359375), np.float32(math.log(2) - 0.693359375)
ROUND = np.float32(1.5 * 2**23)  # added and taken off again: the nearest whole number
EXP = tuple(np.float32(1 / math.factorial(n)) for n in range(8))
SMALLEST = np.float32(2.0**-126)
HALF_ROOT = np.int32(0x3F3504F3)  # the bits of the root of 1/2
LOG = tuple(
    np.float32(n)
    for n in (
        *(7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1),
        *(-1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1),
    )
)


@intrinsic  # type: ignore[untyped-decorator]
def array_at(_: Any, address: Any, count: Any, kind: Any) -> Any:  # noqa: ARG001
    """So many numbers at an address, which belong to somebody else, as an array."""
    array = types.Array(kind.dtype, 1, "C")

    def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        data_type = context.get_data_type(array.dtype)
        size = ir.Constant(ir.IntType(64), context.get_abi_sizeof(data_type))
        data = builder.inttoptr(args[0], data_type.as_pointer())
        made = context.make_array(array)(context, builder)
        arrayobj.populate_array(
            made,
            data=data,
            shape=cgutils.pack_array(builder, [args[1]]),
            strides=cgutils.pack_array(builder, [size]),
            itemsize=size,
            meminfo=None,
        )
        return made._getvalue()

    return array(types.int64, types.int64, kind), generate


@intrinsic  # type: ignore[untyped-decorator]
def start_of(_: Any, array: Any) -> Any:
    """The address of an array's numbers, which lie one after the other.

    Raises:
        TypingError: they do not; when a loop is compiled, which costs nothing when it runs.
    """
    if array.layout != "C":
        raise errors.TypingError(f"{array} does not lie in one piece: pass a contiguous copy")

    def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        held = context.make_array(array)(context, builder, args[0])
        return builder.ptrtoint(held.data, ir.IntType(64))

    return types.int64(array), generate


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
def to_fp32(_: Any, value: Any) -> Any:
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


@compiled()
def log(x: Number) -> Number:
    """ln x to fp32's precision, of a positive number that fp32 holds in full (Cephes' series).

    What is less is taken for the least of these; of what is not finite NaN.
    """
    bits = np.float32(SMALLEST if x < SMALLEST else x).view(np.int32)
    # x = 2^n m, where m is from sqrt(1/2) to sqrt(2).
    n = np.int32(np.int32(bits - HALF_ROOT) >> np.int32(23))
    m = np.int32(bits - np.int32(n << np.int32(23))).view(np.float32) - ONE
    series = LOG[0]
    for factor in LOG[1:]:
        series = series * m + factor
    square = m * m
    count = np.float32(n)
    low = series * m * square + count * LN2_REST - np.float32(0.5) * square
    return (m + low) + count * LN2 + (x - x)


@compiled("reassoc", "nsz")
def dot(x: Factor, y: Array) -> Number:
    total = ZERO
    for i in range(len(x)):
        total += to_fp32(x[i]) * y[i]
    return total


@compiled("reassoc", "nsz")
def total_of(x: Array) -> Number:
    total = ZERO
    for i in range(len(x)):
        total += x[i]
    return total


@compiled("nsz")
def largest_of(x: Array) -> Number:
    largest: Number = x[0]
    for i in range(len(x)):
        largest = max(largest, x[i])
    return largest


@compiled()
def softmax(x: Array) -> None:
    largest = largest_of(x)
    for i in range(len(x)):
        x[i] = exp(x[i] - largest)
    scale = ONE / total_of(x)
    for i in range(len(x)):
        x[i] *= scale


@compiled()
def add_rows(weights: Array, rows: Factor, total: Array) -> None:
    """total += sum_t w_t r_t, t in order; four at a time, so that sums stay in registers."""
    length, by_four = len(weights), len(weights) // 4 * 4
    for t in range(0, by_four, 4):
        w0, w1, w2, w3 = weights[t], weights[t + 1], weights[t + 2], weights[t + 3]
        r0, r1, r2, r3 = rows[t], rows[t + 1], rows[t + 2], rows[t + 3]
        for i in range(len(total)):
            start = (total[i] + w0 * to_fp32(r0[i])) + w1 * to_fp32(r1[i])
            total[i] = (start + w2 * to_fp32(r2[i])) + w3 * to_fp32(r3[i])
    for t in range(by_four, length):
        row = rows[t]
        for i in range(len(total)):
            total[i] += weights[t] * to_fp32(row[i])
