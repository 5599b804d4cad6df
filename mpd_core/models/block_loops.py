"""Products with weights in blocks of 4 or 8 bits, which are unpacked on their way to the sum.

A weight is d q + m: q of 4 or 8 bits, d and, of 4 bits, m in fp16 and the same for 32 inputs of one
output (llama.cpp's Q4_1; Q4_0 is that with m = -8 d, Q8_0 has no m). What is multiplied is that
weight in fp32, to the bit what unpacking to memory gives, and activations and sums are fp32.

32 outputs lie side by side, a panel, and take a lane of the CPU's vectors each. A sum is one chain
of fused multiply-adds over its inputs, always in the same order: its bits depend neither on other
rows, nor on other outputs, nor on the threads. Several rows go through a panel together, whose
weights are unpacked once for all of them: in registers, or, of many rows, to a panel of fp32 that
stays in the core's cache.

Written in LLVM's language and not as Python loops: sums must stay in registers, as many as there
are, and what numba's arrays become is not sure to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import config, prange, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from mpd_core.models.kernels import Array, compiled

PANEL = 32
"""Outputs side by side."""
BLOCK = 32
"""Inputs with one d, and one m."""
HALF = BLOCK // 2


def _has_wide_vectors() -> bool:
    """Whether the CPU that is compiled for has 32 registers of 512 bits."""
    features = config.CPU_FEATURES
    if features is None:
        features = binding.get_host_cpu_features().flatten()
    return "+avx512f" in features.split(",")


WIDE = _has_wide_vectors()
LANES, MOST = (32, 8) if WIDE else (16, 4)
"""Outputs, and rows at most, whose sums fit into registers together."""
MANY_MOST = 14 if WIDE else 6
"""The same where no registers are needed for unpacking."""
MANY = 2 * MANY_MOST
"""Rows for which a panel is unpacked to memory."""
MANY_LEAST = MANY // 3
"""Fewer do not go together when so many are cut into equal parts."""
AHEAD = 4096
"""Bytes: weights are asked for so long before they are used. What a CPU expects by itself ends with
a page of memory."""

_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_F16, _F32 = ir.HalfType(), ir.FloatType()
Codes = NDArray[np.uint8]
Scales = NDArray[np.int16]
Body = Callable[[Any, Sequence[Any]], list[Any]]


class _Code:
    """What numba's builder lacks: addresses as numbers, vectors, and loops that carry values."""

    def __init__(self, builder: Any) -> None:
        self.b = builder

    def at(self, address: Any, *terms: Any) -> Any:
        """An address and terms behind it: numbers, or pairs (index, bytes of one)."""
        for term in terms:
            whole = term if isinstance(term, tuple) else (_I64(1), term)
            address = self.b.add(address, self.b.mul(whole[0], self._number(whole[1])))
        return address

    def _number(self, value: Any) -> Any:
        return _I64(value) if isinstance(value, int) else value

    def load(self, address: Any, kind: Any, lanes: int, align: int) -> Any:
        vector = ir.VectorType(kind, lanes)
        return self.b.load(self.b.inttoptr(address, vector.as_pointer()), align=align)

    def fetch(self, address: Any) -> None:
        """Have a line of memory come closer, which will be read soon."""
        pointer = self.b.inttoptr(address, _I8.as_pointer())
        signature = ir.FunctionType(ir.VoidType(), [pointer.type, _I32, _I32, _I32])
        function = cgutils.get_or_insert_function(self.b.module, signature, "llvm.prefetch.p0")
        self.b.call(function, [pointer, _I32(0), _I32(3), _I32(1)])

    def store(self, vector: Any, address: Any) -> None:
        self.b.store(vector, self.b.inttoptr(address, vector.type.as_pointer()), align=4)

    def number_in_all(self, address: Any) -> Any:
        """The fp32 at an address in each lane."""
        number = self.b.load(self.b.inttoptr(address, _F32.as_pointer()), align=4)
        nothing = ir.Constant(ir.VectorType(_F32, LANES), ir.Undefined)
        first = self.b.insert_element(nothing, number, _I32(0))
        return self.b.shuffle_vector(first, nothing, _in_all(_I32, 0))

    def add_product(self, x: Any, y: Any, total: Any) -> Any:
        """x y + total, rounded once where the CPU can."""
        kind = total.type
        name = f"llvm.fmuladd.v{kind.count}f32"
        signature = ir.FunctionType(kind, [kind] * 3)
        return self.b.call(
            cgutils.get_or_insert_function(self.b.module, signature, name), [x, y, total]
        )

    def add_pair(
        self, inputs: Sequence[Any], steps: Any, pairs: Sequence[Any], totals: Sequence[Any]
    ) -> list[Any]:
        """Two inputs of each row times their weights, the first and then the second.

        Args:
            inputs: where a block of each row begins.
            steps: from there to the first input, and from that to the second.
            pairs: weights of both, for each part of the outputs.
            totals: of each row, and of each part.
        """
        totals, (first, second) = list(totals), steps
        for side in range(2):
            for row, at in enumerate(inputs):
                place = self.at(at, first, second) if side else self.at(at, first)
                number = self.number_in_all(place)
                for part, weights in enumerate(pairs):
                    k = row * len(pairs) + part
                    totals[k] = self.add_product(number, weights[side], totals[k])
        return totals

    def loop(self, count: Any, carried: Sequence[Any], body: Body) -> list[Any]:
        """Run ``body(index, values)`` count times, at least once; the values that it leaves."""
        before = self.b.block
        start, end = self.b.append_basic_block(), self.b.append_basic_block()
        self.b.branch(start)
        self.b.position_at_end(start)
        index = self.b.phi(_I64)
        index.add_incoming(_I64(0), before)
        held = [self.b.phi(value.type) for value in carried]
        for phi, value in zip(held, carried, strict=True):
            phi.add_incoming(value, before)
        left = body(index, held)
        following = self.b.add(index, _I64(1))
        index.add_incoming(following, self.b.block)
        for phi, value in zip(held, left, strict=True):
            phi.add_incoming(value, self.b.block)
        self.b.cbranch(self.b.icmp_signed("<", following, count), start, end)
        self.b.position_at_end(end)
        return left


def _in_all(kind: Any, number: float) -> Any:
    return ir.Constant(ir.VectorType(kind, LANES), [number] * LANES)


class _Panel(_Code):
    """The code of one panel."""

    def __init__(self, builder: Any, bits: int, arguments: Sequence[Any]) -> None:
        super().__init__(builder)
        self.bits = bits
        self.codes, self.scales, self.blocks, self.x, self.x_row, self.y, self.y_row = arguments
        self.step, self.side = (1, HALF) if bits == 4 else (2, 1)  # inputs that go together
        self.code_bytes = PANEL * BLOCK * bits // 8
        self.scale_bytes = PANEL * 2 * (2 if bits == 4 else 1)

    def write(self, rows: int, first: int, parts: int) -> None:
        """y of so many rows, of so many times ``LANES`` outputs from ``first`` on."""
        starts = [first + part * LANES for part in range(parts)]

        def block(index: Any, totals: Sequence[Any]) -> list[Any]:
            scales = [self._scales(index, start) for start in starts]
            inputs = [self.at(self.x, (self.x_row, r), (index, 4 * BLOCK)) for r in range(rows)]

            def pair(k: Any, totals: Sequence[Any]) -> list[Any]:
                pairs = [
                    self._weights(index, k, s, *own) for s, own in zip(starts, scales, strict=True)
                ]
                steps = (k, 4 * self.step), 4 * self.side
                return self.add_pair(inputs, steps, pairs, totals)

            return self.loop(_I64(HALF), totals, pair)

        totals = self.loop(self.blocks, [_in_all(_F32, 0.0)] * (rows * parts), block)
        for place, total in enumerate(totals):
            row, part = divmod(place, parts)
            self.store(total, self.at(self.y, (self.y_row, row), 4 * starts[part]))

    def unpack(self, to: Any) -> None:
        """All weights as fp32, [blocks, 16, 2, 32], in the order in which they are summed."""

        def block(index: Any, _: Sequence[Any]) -> list[Any]:
            starts = range(0, PANEL, LANES)
            scales = [self._scales(index, start) for start in starts]

            def pair(k: Any, _: Sequence[Any]) -> list[Any]:
                here = self.at(to, (index, 4 * BLOCK * PANEL), (k, 8 * PANEL))
                for start, own in zip(starts, scales, strict=True):
                    for side, weights in enumerate(self._weights(index, k, start, *own)):
                        self.store(weights, self.at(here, 4 * (side * PANEL + start)))
                return []

            return self.loop(_I64(HALF), [], pair)

        self.loop(self.blocks, [], block)

    def _scales(self, index: Any, start: int) -> list[Any]:
        """d, and of 4 bits m."""
        at = self.at(self.scales, (index, self.scale_bytes), 2 * start)
        count = 2 if self.bits == 4 else 1
        halves = [self.load(self.at(at, 2 * PANEL * j), _F16, LANES, 2) for j in range(count)]
        return [self.b.fpext(half, ir.VectorType(_F32, LANES)) for half in halves]

    def _weights(self, index: Any, k: Any, start: int, *scales: Any) -> list[Any]:
        """Of inputs k and k + 16 of a block; with 8 bits of 2 k and 2 k + 1."""
        at = self.at(self.codes, (index, self.code_bytes), start)
        floats, whole = ir.VectorType(_F32, LANES), ir.VectorType(_I32, LANES)
        self.fetch(self.at(at, (k, PANEL * self.bits // 4), AHEAD))
        if self.bits == 4:
            byte = self.b.zext(self.load(self.at(at, (k, PANEL)), _I8, LANES, 1), whole)
            low, high = self.b.and_(byte, _in_all(_I32, 15)), self.b.lshr(byte, _in_all(_I32, 4))
            return [self.add_product(self.b.uitofp(q, floats), *scales) for q in (low, high)]
        codes = [
            self.load(self.at(at, (k, 2 * PANEL), side * PANEL), _I8, LANES, 1) for side in range(2)
        ]
        return [
            self.b.fmul(self.b.sitofp(self.b.sext(code, whole), floats), scales[0])
            for code in codes
        ]


class _Unpacked(_Code):
    """The code of one panel that was unpacked."""

    def write(self, rows: int, first: int, arguments: Sequence[Any]) -> None:
        """y of so many rows, of ``LANES`` outputs from ``first`` on."""
        weights, blocks, step, side, x, x_row, y, y_row = arguments

        def block(index: Any, totals: Sequence[Any]) -> list[Any]:
            inputs = [self.at(x, (x_row, r), (index, 4 * BLOCK)) for r in range(rows)]

            def pair(k: Any, totals: Sequence[Any]) -> list[Any]:
                here = self.at(weights, (index, 4 * BLOCK * PANEL), (k, 8 * PANEL), 4 * first)
                both = [self.load(self.at(here, 4 * PANEL * n), _F32, LANES, 4) for n in range(2)]
                return self.add_pair(inputs, ((k, step), side), [both], totals)

            return self.loop(_I64(HALF), totals, pair)

        for row, total in enumerate(self.loop(blocks, [_in_all(_F32, 0.0)] * rows, block)):
            self.store(total, self.at(y, (y_row, row), 4 * first))


@intrinsic  # type: ignore[untyped-decorator]
def _unpack(_: Any, numbers: Any) -> Any:
    """A panel as fp32; ``numbers`` are bits, codes, scales and blocks as of ``_multiply``,
    and where to write."""

    def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        bits, codes, scales, blocks, to = cgutils.unpack_tuple(builder, args[0], 5)
        with builder.if_else(builder.icmp_signed("==", bits, _I64(4))) as branches:
            for own_bits, branch in zip((4, 8), branches, strict=True):
                with branch:
                    _Panel(builder, own_bits, [codes, scales, blocks, *[_I64(0)] * 4]).unpack(to)
        return context.get_dummy_value()

    return types.void(numbers), generate


@intrinsic  # type: ignore[untyped-decorator]
def _multiply_unpacked(_: Any, numbers: Any) -> Any:
    """y of ``MANY_LEAST`` to ``MANY_MOST`` rows and one panel.

    ``numbers`` are how many rows, where the weights are, how many blocks an output has, bytes from
    an input to the next pair's and to its partner, and x and y as of ``_multiply``.
    """

    def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        rows, *others = cgutils.unpack_tuple(builder, args[0], 9)
        end = builder.append_basic_block()
        switch = builder.switch(rows, end)
        for own_rows in range(MANY_LEAST, MANY_MOST + 1):
            case = builder.append_basic_block()
            switch.add_case(_I64(own_rows), case)
            builder.position_at_end(case)
            for first in range(0, PANEL, LANES):
                _Unpacked(builder).write(own_rows, first, others)
            builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    return types.void(numbers), generate


@intrinsic  # type: ignore[untyped-decorator]
def _multiply(_: Any, numbers: Any) -> Any:
    """y of 1 to ``MOST`` rows and one panel.

    ``numbers`` are how many bits and rows, the addresses of the panel's codes and scales, how many
    blocks an output has, where x begins, bytes from one of its rows to the next, and as of x of y.
    """
    parts = PANEL // LANES

    def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        bits, rows, *others = cgutils.unpack_tuple(builder, args[0], 9)
        end = builder.append_basic_block()
        # One number for both: 4 or 8 times more than there can be rows, and the rows.
        switch = builder.switch(builder.add(builder.mul(bits, _I64(MOST + 1)), rows), end)
        for own_bits, own_rows in product((4, 8), range(1, MOST + 1)):
            case = builder.append_basic_block()
            switch.add_case(_I64(own_bits * (MOST + 1) + own_rows), case)
            builder.position_at_end(case)
            code = _Panel(builder, own_bits, others)
            if own_rows == 1:  # few sums: more of them at once, for each waits for its last one
                code.write(1, 0, parts)
            else:
                for part in range(parts):
                    code.write(own_rows, part * LANES, 1)
            builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    return types.void(numbers), generate


@compiled(parallel=True)
def multiply(codes: Codes, scales: Scales, x: Array, y: Array) -> None:
    """y = x W^T, where W's blocks are as ``blocks.Panels`` has them.

    Args:
        codes: [panels, blocks, 16 or 32, 32].
        scales: fp16 seen as int16, [panels, blocks, 2 or 1, 32].
        x: [rows, 32 blocks].
        y: [rows, 32 panels].
    """
    panels, blocks, rows = codes.shape[0], codes.shape[1], x.shape[0]
    bits = codes.shape[2] // (HALF // 4)
    codes_panel, scales_panel = codes[0].size, 2 * scales[0].size
    x_row, y_row = 4 * x.shape[1], 4 * y.shape[1]
    at_codes, at_scales = codes.ctypes.data, scales.ctypes.data
    at_x, at_y = x.ctypes.data, y.ctypes.data
    most = MANY_MOST if rows >= MANY else MOST
    groups = (rows + most - 1) // most
    step, side = (4, 4 * HALF) if bits == 4 else (8, 4)
    for panel in prange(panels):
        own, d = at_codes + panel * codes_panel, at_scales + panel * scales_panel
        unpacked = np.empty(blocks * BLOCK * PANEL if rows >= MANY else 0, np.float32)
        weights = unpacked.ctypes.data
        if rows >= MANY:
            _unpack((bits, own, d, blocks, weights))
        for group in range(groups):  # as even as can be: unpacking is for all rows of a group
            row, last = group * rows // groups, (group + 1) * rows // groups
            here, there = at_x + row * x_row, at_y + row * y_row + 4 * PANEL * panel
            to = (here, x_row, there, y_row)
            if rows >= MANY:
                _multiply_unpacked((last - row, weights, blocks, step, side, *to))
            else:
                _multiply((bits, last - row, own, d, blocks, *to))
