"""Among how many rows a product gives each of them the same bits: measured, and filled up to.

A matrix library has a kernel for each few rows, and a count of rows is cut into what there are
kernels for. Some sum in another order than others: of fp16 products on AVX2, those of one row and
of two do, and with them every count that leaves so few over, 7 or 121. A request's text must not
depend on who else is served, so products are made of counts that agree with each other only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

MOST = 256
"""Rows in one product; more are computed in pieces."""
DEAREST = 8
"""Rows that one row may be filled up to; beyond, the promise is not worth its price."""
SMALL = (64, 256)
"""Shape of the weight that a kind of product is measured with."""
PROBES = 4
"""Rows that counts are told apart by: one may round to the same bits by chance."""
CHECKED = (2, 7, 32)
"""Counts for which products of a model's own shapes are held against what was measured."""

Compute = Callable[[Tensor], Tensor]
"""A product of rows [n, in]: [n, out]."""


@dataclass(frozen=True)
class Counts:
    """What a kind of product is filled up to."""

    filled: tuple[int, ...]
    """Of each count from none on, the least that is as large and agrees with the others."""
    alike: bool
    """Whether a row has the same bits in all of these."""

    @property
    def plain(self) -> bool:
        """Whether nothing has to be filled up."""
        return self.filled == tuple(range(len(self.filled)))

    def compute(self, product: Compute, rows: Tensor) -> Tensor:
        """The product of rows [n, in], as many as there are."""
        count, most = len(rows), len(self.filled) - 1
        if count > most:
            pieces = (rows[first : first + most] for first in range(0, count, most))
            return torch.cat([self.compute(product, piece) for piece in pieces])
        idle = self.filled[count] - count
        if not idle:
            return product(rows)
        return product(torch.cat([rows, rows.new_zeros(idle, rows.shape[1])]))[:count]


UNEQUAL = Counts(tuple(range(MOST + 1)), alike=False)


def measure(product: Compute, width: int) -> Counts:
    """Which counts of equal rows of that width give all of them the same bits, in this process.

    Of several kinds that agree among themselves, the one that takes the least filling.
    """
    rows = torch.randn(PROBES, 1, width, generator=torch.Generator().manual_seed(0))
    kinds: dict[bytes, list[int]] = defaultdict(list)
    for count in range(1, MOST + 1):
        made = [product(row.expand(count, -1).contiguous()) for row in rows]
        if all(bool((y == y[0]).all()) for y in made):
            kinds[b"".join(y[0].numpy().tobytes() for y in made)].append(count)
    tables = [table for counts in kinds.values() if (table := _table(counts))]
    if not tables:
        return UNEQUAL
    return Counts(min(tables, key=lambda t: sum(up / n for n, up in enumerate(t) if n)), alike=True)


def _table(counts: list[int]) -> tuple[int, ...] | None:
    """Of each count up to the largest of these the next one of them; None: that is too dear."""
    table, start = [0], 1
    for count in counts:
        table += [count] * (count + 1 - start)
        start = count + 1
    return tuple(table) if len(table) > DEAREST and table[1] <= DEAREST else None


_known: dict[Hashable, Counts] = {}


def counts_of(
    kind: str, make: Callable[[Tensor], Compute], own: Compute, shape: tuple[int, int]
) -> Counts:
    """What products of a kind and shape are to be filled up to; measured once in a process.

    A library may cut a product otherwise by its shape and by how many threads there are, so each
    shape is held against what was measured, on the threads that will compute it.

    Args:
        kind: of the kernels.
        make: packs a weight [out, in] for them.
        own: the product in question.
        shape: of its weight, (out, in).
    """
    if kind not in _known:
        few = torch.randn(SMALL, generator=torch.Generator().manual_seed(1))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # many tiny products in a row are slow on several, and no better
        try:
            _known[kind] = measure(make(few), few.shape[1])
        finally:
            torch.set_num_threads(threads)
    key = (kind, shape, torch.get_num_threads())
    if key not in _known:
        counts = _known[kind]
        if not _agrees(own, shape[1], counts):
            counts = measure(own, shape[1])
        _known[key] = counts if _agrees(own, shape[1], counts) else UNEQUAL
    return _known[key]


def _agrees(product: Compute, width: int, counts: Counts) -> bool:
    """Whether a product keeps its rows' bits where it is filled up to these counts."""
    rows = torch.randn(max(CHECKED), width, generator=torch.Generator().manual_seed(2))
    whole = counts.compute(product, rows)
    same = (torch.equal(counts.compute(product, rows[:n]), whole[:n]) for n in CHECKED)
    # Sums in another order often round to the same number: one row alone shows nothing.
    alone = (
        torch.equal(counts.compute(product, row[None])[0], y)
        for row, y in zip(rows, whole, strict=True)
    )
    return counts.alike and all(same) and all(alone)
