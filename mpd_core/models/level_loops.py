"""Activations as whole numbers of 21 bits, for products with weights in blocks.

Of 32 inputs, activations are s n: n whole, up to 2^20, of three digits to the base of 128, and s in
fp32. Written in LLVM's language: of a loop over digits LLVM makes one number at a time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from mpd_core.models.compiling import compiled
from mpd_core.models.number_code import ROUND, Array, start_of
from mpd_core.models.vector_code import F32, I8, I32, Code

BLOCK = 32
"""Inputs with one s, and weights with one d, and one m."""
DIGITS = 3
"""Of an activation, the highest first."""

LARGEST = np.float32(63 * (128 * 128 + 128 + 1))  # three digits of -64 to 63
UNSIGNED = 0x7FFFFFFF
LEAST = np.float32(2.0**-100)
"""Of what the largest activation of a block is taken for: what is 1 over it must be finite."""
BYTES, WHOLE = (ir.VectorType(kind, BLOCK) for kind in (I8, I32))

Levels = NDArray[np.int8]


def in_block(kind: Any, number: float) -> Any:
    return ir.Constant(ir.VectorType(kind, BLOCK), [number] * BLOCK)


class _Block(Code):
    """The code of one block of activations, in vectors of all its numbers."""

    def write(self, x: Any, levels: Any, sizes: Any) -> None:
        """Digits, s, and the sum of s n. What is not finite makes all of it NaN."""
        x = self.load(x, F32, BLOCK, 4)
        # Without the sign, bits are in the order of numbers, NaN the largest.
        bits = self.b.and_(self.b.bitcast(x, WHOLE), in_block(I32, UNSIGNED))
        largest = self.b.bitcast(self._reduced("smax", bits), F32)
        small = self.b.fcmp_ordered("<", largest, F32(LEAST))
        size = self.b.select(small, F32(LEAST), largest)
        scaling = self.spread(self.b.fdiv(F32(LARGEST), size), BLOCK)
        shifted = self.add_product(x, scaling, in_block(F32, float(ROUND)))
        n = self.b.sub(self.b.bitcast(shifted, WHOLE), in_block(I32, int(ROUND.view(np.int32))))
        total = self.b.sitofp(self._reduced("add", n), F32)
        for digit in reversed(range(DIGITS)):
            low = self.b.add(n, in_block(I32, 64))
            low = self.b.sub(self.b.and_(low, in_block(I32, 127)), in_block(I32, 64))
            self.store(self.b.trunc(low, BYTES), self.at(levels, digit * BLOCK))
            n = self.b.ashr(self.b.sub(n, low), in_block(I32, 7))
        finite = self.b.fcmp_ordered("<", largest, F32(np.inf))
        size = self.b.select(finite, self.b.fdiv(size, F32(LARGEST)), F32(np.nan))
        for number, place in ((size, 0), (self.b.fmul(size, total), 4)):
            self.store(number, self.at(sizes, place))

    def _reduced(self, how: str, numbers: Any) -> Any:
        name = f"llvm.vector.reduce.{how}.v{BLOCK}i32"
        return self.b.call(self._named(name, I32, [WHOLE]), [numbers])


@intrinsic  # type: ignore[untyped-decorator]
def _to_levels(_: Any, numbers: Any) -> Any:
    """One block; ``numbers`` are the addresses of its x, digits and sizes."""

    def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        _Block(builder).write(*cgutils.unpack_tuple(builder, args[0], 3))
        return context.get_dummy_value()

    return types.void(numbers), generate


@compiled(parallel=True)
def to_levels(x: Array, levels: Levels, sizes: Array) -> None:
    """Activations as whole numbers, s n, for each 32 inputs.

    Args:
        x: [rows, 32 blocks].
        levels: n's digits, [rows, blocks, 3, 32].
        sizes: s, and the sum of s n, [rows, blocks, 2].
    """
    blocks = levels.shape[1]
    at_x, at_levels, at_sizes = start_of(x), start_of(levels), start_of(sizes)
    for row in prange(len(x)):
        for block in range(row * blocks, (row + 1) * blocks):
            x_block, levels_block = at_x + block * BLOCK * 4, at_levels + block * BLOCK * DIGITS
            _to_levels((x_block, levels_block, at_sizes + block * 8))
