"""Sums of values by weights, of several heads at once, that stay in registers.

Each number is one chain of fused multiply-adds over all tokens in their order, as ``add_rows`` has
it. Of one head such chains are too few: each addition waits for the one before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from mpd_core.models.compiling import compiled
from mpd_core.models.number_code import ZERO, Array, add_rows, start_of
from mpd_core.models.vector_code import F32, I64, LANES, Code

PARTS = 4
"""Registers of a head."""
WIDTH = PARTS * LANES
"""Numbers of a value that are summed at a time."""
HEADS = 3
"""Whose sums fit into registers together."""


class _Mix(Code):
    """The code of some heads with the same values."""

    def __init__(self, builder: Any, arguments: Sequence[Any]) -> None:
        super().__init__(builder)
        self._tokens, self._weights, self._weights_row, *others = arguments
        self._values, self._each, self._out, self._out_row = others

    def write(self, heads: int) -> None:
        places = list(product(range(heads), range(PARTS)))
        zero = ir.Constant(ir.VectorType(F32, LANES), [0.0] * LANES)

        def token(index: Any, sums: Sequence[Any]) -> list[Any]:
            at = [self.at(self._values, (self._each, index), k * LANES * 4) for k in range(PARTS)]
            value = [self.load(address, F32, LANES, 4) for address in at]
            weights = [
                self.in_all(self.at(self._weights, (self._weights_row, head), (index, 4)), F32)
                for head in range(heads)
            ]
            return [
                self.add_product(weights[head], value[part], total)
                for (head, part), total in zip(places, sums, strict=True)
            ]

        sums = self.loop(self._tokens, [zero] * len(places), token)
        for (head, part), total in zip(places, sums, strict=True):
            self.store(total, self.at(self._out, (self._out_row, head), part * LANES * 4))


@intrinsic  # type: ignore[untyped-decorator]
def _mix(_: Any, numbers: Any) -> Any:
    """``WIDTH`` numbers of 1 to ``HEADS`` heads.

    ``numbers`` are how many heads and tokens, the address of the weights and bytes from one head's
    to the next, likewise of the values from one token's to the next, and of the sums.
    """

    def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        heads, *others = cgutils.unpack_tuple(builder, args[0], 8)
        end = builder.append_basic_block()
        switch = builder.switch(heads, end)
        for own in range(1, HEADS + 1):
            case = builder.append_basic_block()
            switch.add_case(I64(own), case)
            builder.position_at_end(case)
            _Mix(builder, others).write(own)
            builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    return types.void(numbers), generate


@compiled()
def mix(weights: Array, values: Array, out: Array) -> None:
    """out = weights values: of some heads [heads, tokens], [tokens, d] and [heads, d]."""
    (heads, tokens), width = weights.shape, values.shape[1]
    if width % WIDTH:
        for head in range(heads):
            own = out[head]
            own[:] = ZERO
            add_rows(weights[head], values, own)
        return
    at_weights, at_values, at_out = start_of(weights), start_of(values), start_of(out)
    own, each = 4 * tokens, 4 * width
    for head in range(0, heads, HEADS):
        count, those, to = min(HEADS, heads - head), at_weights + own * head, at_out + each * head
        for i in range(0, each, 4 * WIDTH):
            _mix((count, tokens, those, own, at_values + i, each, to + i, each))
