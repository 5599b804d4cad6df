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

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
from numba import prange, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from mpd_core.models.compiling import compiled
from mpd_core.models.level_loops import BLOCK, DIGITS, Levels
from mpd_core.models.number_code import Array, start_of
from mpd_core.models.vector_code import (
    DOTS,
    F16,
    F32,
    I32,
    I64,
    LANES,
    MOST,
    PAIRS,
    Code,
    in_all,
    vector,
)

PANEL = 32
"""Outputs side by side."""
HALF = BLOCK // 2
FOUR = 4
"""Inputs in a lane."""
AHEAD = 4096
"""Bytes: weights are asked for so long before they are used. What a CPU expects by itself ends with
a page of memory."""

Codes = NDArray[np.uint8]
Scales = NDArray[np.int16]


class _Panel(Code):
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
            nothing = [in_all(I32, 0)] * (DIGITS * len(places))
            sums = self.loop(I64(4), nothing, lambda k, s: self._add(index, k, starts, s))
            scales = [self._scales(index, start) for start in starts]
            return [
                self._scaled(index, row, scales[part], sums[k * DIGITS : (k + 1) * DIGITS], total)
                for k, ((row, part), total) in enumerate(zip(places, totals, strict=True))
            ]

        totals = self.loop(self.blocks, [in_all(F32, 0.0)] * len(places), block)
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
            digits = self.in_all(self.at(at, digit * BLOCK + side * far), I32)
            for part, both in enumerate(parts):
                own = (row * len(parts) + part) * DIGITS + digit
                sums[own] = self.add_four(both[side], digits, sums[own], halves=self.halves)
        return sums

    def _block(self, index: Any, row: int) -> Any:
        """Which of all rows' blocks this one of a row is."""
        return self.b.add(self.b.mul(self.blocks, I64(row)), index)

    def _bytes(self, index: Any, k: Any, start: int) -> list[Any]:
        """q of two times four inputs, a byte each."""
        words = 1 if self.bits == 4 else 2  # of 32 bits a lane
        word = PANEL * 4
        at = self.at(self.codes, (index, 4 * words * word), (k, words * word), 4 * start)
        found = []
        for place in range(words):
            here = self.at(at, place * word)
            self.fetch(self.at(here, AHEAD))
            found.append(self.load(here, I32, LANES, 4))
        if self.bits == 8:
            return [self.b.xor(one, in_all(I32, 0x80808080)) for one in found]
        low = in_all(I32, 0x0F0F0F0F)
        sides = found[0], self.b.lshr(found[0], in_all(I32, 4))
        return [self.b.and_(side, low) for side in sides]

    def _scaled(
        self, index: Any, row: int, scales: Sequence[Any], sums: Sequence[Any], total: Any
    ) -> Any:
        """total + s d sum of q n + m sum of s n."""
        block, (d, m), kind = self._block(index, row), scales, total.type
        size, ones = (self.in_all(self.at(self.sizes, (block, 8), side), F32) for side in (0, 4))
        high, middle, low = (self.whole(one) for one in sums) if self.halves else sums
        upper = self.b.add(self.b.shl(high, in_all(I32, 7)), middle)
        upper, low = (self.b.sitofp(one, kind) for one in (upper, low))
        number = self.add_product(upper, in_all(F32, 128.0), low)
        total = self.add_product(m, ones, total)
        return self.add_product(number, self.b.fmul(d, size), total)

    def _scales(self, index: Any, start: int) -> list[Any]:
        """d and m."""
        at = self.at(self.scales, (index, self.scale_bytes), 2 * start)
        count = 2 if self.bits == 4 else 1
        halves = [self.load(self.at(at, 2 * PANEL * j), F16, LANES, 2) for j in range(count)]
        d, *m = (self.b.fpext(half, vector(F32)) for half in halves)
        return [d, m[0] if m else self.b.fmul(d, in_all(F32, -128.0))]


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
        switch = builder.switch(builder.add(builder.mul(bits, I64(MOST + 1)), rows), end)
        for own_bits, own_rows in product((4, 8), range(1, MOST + 1)):
            case = builder.append_basic_block()
            switch.add_case(I64(own_bits * (MOST + 1) + own_rows), case)
            builder.position_at_end(case)
            together = 2 if own_rows <= MOST // 3 else 1  # few sums: more of them at once
            for part in range(0, parts, together):
                _Panel(builder, own_bits, others).write(own_rows, part * LANES, together)
            builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    return types.void(numbers), generate


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
    at_codes, at_scales = start_of(codes), start_of(scales)
    at_levels, at_sizes, at_y = start_of(levels), start_of(sizes), start_of(y)
    groups = (rows + MOST - 1) // MOST
    for panel in prange(panels):
        own, d = at_codes + panel * codes_panel, at_scales + panel * scales_panel
        for group in range(groups):  # as even as can be: unpacking is for all rows of a group
            row, last = group * rows // groups, (group + 1) * rows // groups
            n, s = at_levels + row * blocks * DIGITS * BLOCK, at_sizes + row * blocks * 8
            to = at_y + row * y_row + 4 * PANEL * panel
            _multiply((bits, last - row, own, d, blocks, n, s, to, y_row))
