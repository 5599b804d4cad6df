"""What numba's builder lacks to write loops over vectors of this CPU in LLVM's language."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import binding, ir
from numba import config
from numba.core import cgutils


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
I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
F16, F32 = ir.HalfType(), ir.FloatType()
Body = Callable[[Any, Sequence[Any]], list[Any]]


class Code:
    """What numba's builder lacks: addresses as numbers, vectors, and loops that carry values."""

    def __init__(self, builder: Any) -> None:
        self.b = builder

    def at(self, address: Any, *terms: Any) -> Any:
        """An address and terms behind it: numbers, or pairs (index, bytes of one)."""
        for term in terms:
            whole = term if isinstance(term, tuple) else (I64(1), term)
            address = self.b.add(address, self.b.mul(whole[0], self._number(whole[1])))
        return address

    def _number(self, value: Any) -> Any:
        return I64(value) if isinstance(value, int) else value

    def load(self, address: Any, kind: Any, lanes: int, align: int) -> Any:
        whole = ir.VectorType(kind, lanes)
        return self.b.load(self.b.inttoptr(address, whole.as_pointer()), align=align)

    def fetch(self, address: Any) -> None:
        """Have a line of memory come closer, which will be read soon."""
        pointer = self.b.inttoptr(address, I8.as_pointer())
        signature = ir.FunctionType(ir.VoidType(), [pointer.type, I32, I32, I32])
        function = cgutils.get_or_insert_function(self.b.module, signature, "llvm.prefetch.p0")
        self.b.call(function, [pointer, I32(0), I32(3), I32(1)])

    def store(self, lanes: Any, address: Any) -> None:
        self.b.store(lanes, self.b.inttoptr(address, lanes.type.as_pointer()), align=4)

    def in_all(self, address: Any, kind: Any) -> Any:
        """The 32 bits at an address in each lane."""
        number = self.b.load(self.b.inttoptr(address, kind.as_pointer()), align=4)
        return self.spread(number, LANES)

    def spread(self, number: Any, count: int) -> Any:
        """A number in each of so many lanes."""
        nothing = ir.Constant(ir.VectorType(number.type, count), ir.Undefined)
        first = self.b.insert_element(nothing, number, I32(0))
        return self.b.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(I32, count), None))

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
        pairs = self._call(1, vector(I16, 2), q, digits)
        if halves:
            both = self.b.add(self.b.bitcast(total, pairs.type), pairs)
            return self.b.bitcast(both, total.type)
        return self.b.add(total, self.whole(pairs))

    def whole(self, halves: Any) -> Any:
        """The sum of the two numbers of 16 bits in each lane."""
        ones = ir.Constant(vector(I16, 2), [1] * (2 * LANES))
        return self._call(2, vector(I32), halves, ones)

    def _add_bytes(self, q: Any, digits: Any, total: Any) -> Any:
        for place in range(0, 32, 8):
            byte = self.b.and_(self.b.lshr(q, in_all(I32, place)), in_all(I32, 255))
            top = self.b.shl(digits, in_all(I32, 24 - place))
            digit = self.b.ashr(top, in_all(I32, 24))
            total = self.b.add(total, self.b.mul(byte, digit))
        return total

    def _call(self, which: int, result: Any, *arguments: Any) -> Any:
        """One of ``NAMES``, whose arguments are taken as vectors of as many bytes as there are."""
        wanted = ((I32, 1), (I8, 4), (I8, 4)) if which == 0 else ((I8, 4),) * 2
        wanted = ((I16, 2),) * 2 if which == 2 else wanted
        kinds = [vector(kind, each) for kind, each in wanted]
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
        index = self.b.phi(I64)
        index.add_incoming(I64(0), before)
        held = [self.b.phi(value.type) for value in carried]
        for phi, value in zip(held, carried, strict=True):
            phi.add_incoming(value, before)
        left = body(index, held)
        following = self.b.add(index, I64(1))
        index.add_incoming(following, self.b.block)
        for phi, value in zip(held, left, strict=True):
            phi.add_incoming(value, self.b.block)
        self.b.cbranch(self.b.icmp_signed("<", following, count), start, end)
        self.b.position_at_end(end)
        return left


def vector(kind: Any, each: int = 1) -> Any:
    return ir.VectorType(kind, LANES * each)


def in_all(kind: Any, number: float) -> Any:
    return ir.Constant(ir.VectorType(kind, LANES), [number] * LANES)
