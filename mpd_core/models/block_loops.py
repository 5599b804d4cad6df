"""Products with weights in blocks of 4 or 8 bits, in whole numbers.

A weight is d q + m: q of 4 or 8 bits, d and, of 4 bits, m in fp16 and the same for 32 inputs of one
output (llama.cpp's Q4_1; Q4_0 is that with m = -8 d, and Q8_0's q is here from 0 to 255, m -128 d).
Of such 32 inputs, activations are s n: n whole, up to 2^20, and s in fp32. n has three digits to
the base of 128, so that four q times four digits are one instruction, or three. A block's sums of
products are whole numbers that fit into their registers: exact, in whatever order and with whatever
instructions. A sum over blocks is one chain of fused multiply-adds in fp32, always in the same
order. So its bits depend neither on other rows, nor on other outputs, nor on the threads, nor on
how wide registers are.

32 outputs lie side by side, a panel, and take a lane of 32 bits of the CPU's vectors each: four
inputs' q, or twice four. Several rows go through a panel together, whose q are unpacked once for
all of them, in registers.

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

from mpd_core.models.kernels import ROUND, Array, compiled

PANEL = 32
"""Outputs side by side."""
BLOCK = 32
"""Inputs with one d, and one m."""
HALF = BLOCK // 2
FOUR = 4
"""Inputs in a lane."""
DIGITS = 3
"""Of an activation, the highest first."""


def _features() -> frozenset[str]:
    """Of the CPU that is compiled for."""
    features = config.CPU_FEATURES
    if features is None:
        features = binding.get_host_cpu_features().flatten()
    return frozenset(features.split(","))


WIDE = "+avx512bw" in _features()
"""Whether there are 32 registers of 512 bits that multiply whole numbers."""
LANES, MOST = (16, 6) if WIDE else (8, 3)
"""Outputs of a register, and rows at most whose sums fit into registers together."""
DOTS = bool({"+avx512vnni" if WIDE else "+avxvnni"} & _features())
"""Whether four products and their sum are one instruction."""
PAIRS = WIDE or "+avx2" in _features()
"""Whether products of neighbours and their sum are."""
NAMES = {
    16: ("avx512.vpdpbusd.512", "avx512.pmaddubs.w.512", "avx512.pmaddw.d.512"),
    8: ("avx512.vpdpbusd.256", "avx2.pmadd.ub.sw", "avx2.pmadd.wd"),
}
"""By lanes: what LLVM calls four products, pairs of bytes, and pairs of 16 bits."""
LARGEST = np.float32(63 * (128 * 128 + 128 + 1))  # three digits of -64 to 63
UNSIGNED = np.int32(0x7FFFFFFF)
LEAST = np.float32(2.0**-100)
"""Of what the largest activation of a block is taken for: what is 1 over it must be finite."""
AHEAD = 4096
"""Bytes: weights are asked for so long before they are used. What a CPU expects by itself ends with
a page of memory."""

_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_F16, _F32 = ir.HalfType(), ir.FloatType()
Codes = NDArray[np.uint8]
Scales = NDArray[np.int16]
Levels = NDArray[np.int8]
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

    def in_all(self, address: Any, kind: Any) -> Any:
        """The 32 bits at an address in each lane."""
        number = self.b.load(self.b.inttoptr(address, kind.as_pointer()), align=4)
        nothing = ir.Constant(ir.VectorType(kind, LANES), ir.Undefined)
        first = self.b.insert_element(nothing, number, _I32(0))
        return self.b.shuffle_vector(first, nothing, _in_all(_I32, 0))

    def add_product(self, x: Any, y: Any, total: Any) -> Any:
        """x y + total, rounded once where the CPU can."""
        kind = total.type
        name = f"llvm.fmuladd.v{kind.count}f32"
        return self.b.call(self._named(name, kind, [kind] * 3), [x, y, total])

    def add_four(self, q: Any, digits: Any, total: Any, *, halves: bool) -> Any:
        """In each lane total + sum of four bytes q, without sign, times four digits.

        With ``halves`` a total is two numbers of 16 bits, to be added by ``whole``: pairs of
        products are below 2^15, and those of q of 4 bits in a block are so all together.
        """
        if DOTS:
            return self._call(0, total.type, total, q, digits)
        if not PAIRS:
            return self._add_bytes(q, digits, total)
        pairs = self._call(1, _vector(_I16, 2), q, digits)
        if halves:
            both = self.b.add(self.b.bitcast(total, pairs.type), pairs)
            return self.b.bitcast(both, total.type)
        return self.b.add(total, self.whole(pairs))

    def whole(self, halves: Any) -> Any:
        """The sum of the two numbers of 16 bits in each lane."""
        ones = ir.Constant(_vector(_I16, 2), [1] * (2 * LANES))
        return self._call(2, _vector(_I32), halves, ones)

    def _add_bytes(self, q: Any, digits: Any, total: Any) -> Any:
        for place in range(0, 32, 8):
            byte = self.b.and_(self.b.lshr(q, _in_all(_I32, place)), _in_all(_I32, 255))
            top = self.b.shl(digits, _in_all(_I32, 24 - place))
            digit = self.b.ashr(top, _in_all(_I32, 24))
            total = self.b.add(total, self.b.mul(byte, digit))
        return total

    def _call(self, which: int, result: Any, *arguments: Any) -> Any:
        """One of ``NAMES``, whose arguments are taken as vectors of as many bytes as there are."""
        wanted = ((_I32, 1), (_I8, 4), (_I8, 4)) if which == 0 else ((_I8, 4),) * 2
        wanted = ((_I16, 2),) * 2 if which == 2 else wanted
        kinds = [_vector(kind, each) for kind, each in wanted]
        cast = [self.b.bitcast(x, kind) for x, kind in zip(arguments, kinds, strict=True)]
        return self.b.call(self._named(f"llvm.x86.{NAMES[LANES][which]}", result, kinds), cast)

    def _named(self, name: str, result: Any, arguments: Sequence[Any]) -> Any:
        signature = ir.FunctionType(result, arguments)
        return cgutils.get_or_insert_function(self.b.module, signature, name)

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


def _vector(kind: Any, each: int = 1) -> Any:
    return ir.VectorType(kind, LANES * each)


def _in_all(kind: Any, number: float) -> Any:
    return ir.Constant(ir.VectorType(kind, LANES), [number] * LANES)


class _Panel(_Code):
    """The code of one panel."""

    def __init__(self, builder: Any, bits: int, arguments: Sequence[Any]) -> None:
        super().__init__(builder)
        self.bits = bits
        self.codes, self.scales, self.blocks, *others = arguments
        self.levels, self.sizes, self.y, self.y_row = others
        self.scale_bytes = PANEL * 2 * (2 if bits == 4 else 1)
        self.halves = bits == 4 and PAIRS and not DOTS

    def write(self, rows: int, first: int, parts: int) -> None:
        """y of so many rows, of so many times ``LANES`` outputs from ``first`` on."""
        starts = [first + part * LANES for part in range(parts)]
        places = list(product(range(rows), range(parts)))

        def block(index: Any, totals: Sequence[Any]) -> list[Any]:
            nothing = [_in_all(_I32, 0)] * (DIGITS * len(places))
            sums = self.loop(_I64(4), nothing, lambda k, s: self._add(index, k, starts, s))
            scales = [self._scales(index, start) for start in starts]
            return [
                self._scaled(index, row, scales[part], sums[k * DIGITS : (k + 1) * DIGITS], total)
                for k, ((row, part), total) in enumerate(zip(places, totals, strict=True))
            ]

        totals = self.loop(self.blocks, [_in_all(_F32, 0.0)] * len(places), block)
        for (row, part), total in zip(places, totals, strict=True):
            self.store(total, self.at(self.y, (self.y_row, row), 4 * starts[part]))

    def _add(self, index: Any, k: Any, starts: Sequence[int], sums: Sequence[Any]) -> list[Any]:
        """Twice four inputs of a block: q times digits, of each row, part and digit."""
        sums, parts = list(sums), [self._bytes(index, k, start) for start in starts]
        # Of 4 bits the upper halves of bytes belong to inputs 16 further on.
        step, far = (FOUR, HALF) if self.bits == 4 else (2 * FOUR, FOUR)
        for row, digit, side in product(
            range(len(sums) // len(parts) // DIGITS), range(DIGITS), (0, 1)
        ):
            at = self.at(self.levels, (self._block(index, row), DIGITS * BLOCK), (k, step))
            digits = self.in_all(self.at(at, digit * BLOCK + side * far), _I32)
            for part, both in enumerate(parts):
                own = (row * len(parts) + part) * DIGITS + digit
                sums[own] = self.add_four(both[side], digits, sums[own], halves=self.halves)
        return sums

    def _block(self, index: Any, row: int) -> Any:
        """Which of all rows' blocks this one of a row is."""
        return self.b.add(self.b.mul(self.blocks, _I64(row)), index)

    def _bytes(self, index: Any, k: Any, start: int) -> list[Any]:
        """q of two times four inputs, a byte each."""
        words = 1 if self.bits == 4 else 2  # of 32 bits a lane
        word = PANEL * 4
        at = self.at(self.codes, (index, 4 * words * word), (k, words * word), 4 * start)
        found = []
        for place in range(words):
            here = self.at(at, place * word)
            self.fetch(self.at(here, AHEAD))
            found.append(self.load(here, _I32, LANES, 4))
        if self.bits == 8:
            return [self.b.xor(one, _in_all(_I32, 0x80808080)) for one in found]
        low = _in_all(_I32, 0x0F0F0F0F)
        sides = found[0], self.b.lshr(found[0], _in_all(_I32, 4))
        return [self.b.and_(side, low) for side in sides]

    def _scaled(
        self, index: Any, row: int, scales: Sequence[Any], sums: Sequence[Any], total: Any
    ) -> Any:
        """total + s d sum of q n + m sum of s n."""
        block, (d, m), kind = self._block(index, row), scales, total.type
        size, ones = (self.in_all(self.at(self.sizes, (block, 8), side), _F32) for side in (0, 4))
        high, middle, low = (self.whole(one) for one in sums) if self.halves else sums
        upper = self.b.add(self.b.shl(high, _in_all(_I32, 7)), middle)
        upper, low = (self.b.sitofp(one, kind) for one in (upper, low))
        number = self.add_product(upper, _in_all(_F32, 128.0), low)
        total = self.add_product(m, ones, total)
        return self.add_product(number, self.b.fmul(d, size), total)

    def _scales(self, index: Any, start: int) -> list[Any]:
        """d and m."""
        at = self.at(self.scales, (index, self.scale_bytes), 2 * start)
        count = 2 if self.bits == 4 else 1
        halves = [self.load(self.at(at, 2 * PANEL * j), _F16, LANES, 2) for j in range(count)]
        d, *m = (self.b.fpext(half, _vector(_F32)) for half in halves)
        return [d, m[0] if m else self.b.fmul(d, _in_all(_F32, -128.0))]


@intrinsic  # type: ignore[untyped-decorator]
def _multiply(_: Any, numbers: Any) -> Any:
    """y of 1 to ``MOST`` rows and one panel.

    ``numbers`` are how many bits and rows, the addresses of the panel's codes and scales, how many
    blocks an output has, the addresses of levels, of their sizes and of y, and bytes from one of
    its rows to the next.
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
            together = 2 if own_rows <= MOST // 3 else 1  # few sums: more of them at once
            for part in range(0, parts, together):
                _Panel(builder, own_bits, others).write(own_rows, part * LANES, together)
            builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    return types.void(numbers), generate


@intrinsic  # type: ignore[untyped-decorator]
def _bits(_: Any, value: Any) -> Any:
    """An fp32 as the whole number that its bits are."""

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], _I32)

    return types.int32(value), generate


@intrinsic  # type: ignore[untyped-decorator]
def _fp32(_: Any, value: Any) -> Any:
    """The reverse."""

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], _F32)

    return types.float32(value), generate


@compiled()
def _to_levels(x: Array, levels: Levels, sizes: Array) -> None:
    """One block. What is not finite makes all of it NaN."""
    most = np.int32(0)
    for i in range(BLOCK):  # without the sign, bits are in the order of numbers, NaN the largest
        most = max(most, np.int32(_bits(x[i]) & UNSIGNED))
    largest = _fp32(most)
    scaling = LARGEST / max(largest, LEAST)
    total = np.int32(0)
    for i in range(BLOCK):
        n = np.int32(_bits(x[i] * scaling + ROUND) - _bits(ROUND))
        total = np.int32(total + n)
        for digit in range(DIGITS):
            low = np.int32(np.int32(np.int32(n + 64) & np.int32(127)) - np.int32(64))
            levels[DIGITS - 1 - digit, i] = low
            n = np.int32(np.int32(n - low) >> np.int32(7))
    size = max(largest, LEAST) / LARGEST
    if not largest < np.float32(np.inf):
        size = np.float32(np.nan)
    sizes[0], sizes[1] = size, size * np.float32(total)


@compiled(parallel=True)
def to_levels(x: Array, levels: Levels, sizes: Array) -> None:
    """Activations as whole numbers, s n, for each 32 inputs.

    Args:
        x: [rows, 32 blocks].
        levels: n's digits, [rows, blocks, 3, 32].
        sizes: s, and the sum of s n, [rows, blocks, 2].
    """
    for row in prange(len(x)):
        for block in range(levels.shape[1]):
            first = block * BLOCK
            _to_levels(x[row, first : first + BLOCK], levels[row, block], sizes[row, block])


@compiled(parallel=True)
def multiply(codes: Codes, scales: Scales, levels: Levels, sizes: Array, y: Array) -> None:
    """y = x W^T, where W's blocks are as ``blocks.Panels`` has them, and x as ``to_levels`` does.

    Args:
        codes: [panels, blocks, 4 or 8, 32, 4].
        scales: fp16 seen as int16, [panels, blocks, 2 or 1, 32].
        levels: [rows, blocks, 3, 32].
        sizes: [rows, blocks, 2].
        y: [rows, 32 panels].
    """
    panels, blocks, bits = codes.shape[:3]
    rows, y_row = len(levels), 4 * y.shape[1]
    codes_panel, scales_panel = codes[0].size, 2 * scales[0].size
    at_codes, at_scales = codes.ctypes.data, scales.ctypes.data
    at_levels, at_sizes, at_y = levels.ctypes.data, sizes.ctypes.data, y.ctypes.data
    groups = (rows + MOST - 1) // MOST
    for panel in prange(panels):
        own, d = at_codes + panel * codes_panel, at_scales + panel * scales_panel
        for group in range(groups):  # as even as can be: unpacking is for all rows of a group
            row, last = group * rows // groups, (group + 1) * rows // groups
            n, s = at_levels + row * blocks * DIGITS * BLOCK, at_sizes + row * blocks * 8
            to = at_y + row * y_row + 4 * PANEL * panel
            _multiply((bits, last - row, own, d, blocks, n, s, to, y_row))
