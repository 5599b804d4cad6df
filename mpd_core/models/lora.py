"""Stacked LoRA: every row of a batch with its own adapter, over a linear that stays a black box.

``y = base(x) + ((x @ A) * mask) @ B`` with the adapters of a linear side by side: A [in, R],
B [R, out], scaled, R the sum of their ranks. The mask [rows, 1, R] holds a row's weight at the
columns of its adapters and 0 elsewhere, so a row without an adapter is exactly the base.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mpd_core.models.adapters import LoraAdapter, mean_of_factors
from mpd_core.models.linear import PACKED, Product

Mix = tuple[tuple[str, float], ...]
"""A row's adapters and their weights: () is the bare base, (("a", 1.0),) one adapter, and n of
weight 1/n are the mean of the products B A, a Personalized Soup without merging anything. A name
such as "a+b" is the adapter whose A and B are the means of theirs, made when first asked for."""


@dataclass(frozen=True)
class _Block:
    """One adapter's part of a stacked linear: A [r, in], B [part, r], first output it adds to."""

    adapter: int
    a: Tensor
    b: Tensor
    start: int


class LoraStack:
    """All adapters of a model; tells every wrapped linear which ones each row of the batch uses.

    Only adapters that live rows use take part in a pass: the side-by-side matrices are laid out
    anew when that set changes, which is when a request joins or leaves.
    """

    def __init__(
        self,
        adapters: Sequence[LoraAdapter],
        model: nn.Module,
        like: Tensor,
        *,
        packed: torch.dtype | None = None,
    ) -> None:
        """Check the adapters against a model.

        Args:
            adapters: any ranks, any target modules.
            model: has every targeted linear under its full name, before anything is wrapped.
            like: a tensor with the compute dtype and the device.
            packed: hold A and B packed to fp16 or bf16 (CPU only).

        Raises:
            PackError: as ``LoraAdapter.check``.
        """
        for adapter in adapters:
            adapter.check(model)
        self._adapters = [adapter.to(packed) for adapter in adapters] if packed else list(adapters)
        self._index = {adapter.name: k for k, adapter in enumerate(adapters)}
        self.like = like.new_empty(0)  # not the tensor itself, which may be large
        self.packed = packed
        self._wrapped: list[StackedLora] = []
        self._gates: Tensor | None = None
        self._masks: dict[tuple[int, ...], Tensor] = {}
        self.in_use: tuple[int, ...] = ()
        """Adapters that are laid out; a pass may use fewer."""
        self.active = False
        """Whether any row of the present pass has an adapter."""

    def gates(self, rows: Sequence[Mix]) -> Tensor:
        """Each row's weight of each adapter, scaled, [rows, adapters]; lays out what is needed."""
        used = self._indices(rows)
        if not used <= set(self.in_use):
            self.in_use = tuple(sorted(used.union(self.in_use)))
        gates = torch.zeros(len(rows), len(self._adapters))
        for row, mix in enumerate(rows):
            for name, weight in mix:
                index = self._index[name]
                gates[row, index] = weight * self._adapters[index].scaling
        self.active = bool(used)
        return gates.to(self.like)

    def route(self, gates: Tensor) -> None:
        """Give the rows of the next pass their adapters."""
        self._masks.clear()
        self._gates = gates

    def keep(self, rows: Sequence[Mix]) -> None:
        """Let go of adapters that none of these rows uses; with no rows, nothing is gained."""
        if rows:
            self.in_use = tuple(sorted(self._indices(rows)))

    @property
    def names_in_use(self) -> tuple[str, ...]:
        """Adapters that are laid out, by name."""
        names = {index: name for name, index in self._index.items()}
        return tuple(names[index] for index in self.in_use)

    def _indices(self, rows: Sequence[Mix]) -> set[int]:
        return {self._find(name) for mix in rows for name, _ in mix}

    def _find(self, name: str) -> int:
        if name not in self._index:
            adapter = mean_of_factors([self._adapters[self._index[n]] for n in name.split("+")])
            self._index[name] = len(self._adapters)
            self._adapters.append(adapter)
            for stacked in self._wrapped:
                stacked.add(self._index[name], adapter)
        return self._index[name]

    def mask(self, columns: tuple[int, ...], places: Tensor) -> Tensor:
        """[rows, 1, R]: each row's weight, scaled, at columns that belong to these adapters.

        Args:
            columns: index of each column's adapter.
            places: the same as a tensor on the device.
        """
        assert self._gates is not None
        if columns not in self._masks:  # once a pass for all linears with the same columns
            self._masks[columns] = self._gates.index_select(1, places)[:, None, :]
        return self._masks[columns]

    def wrap(self, linear: nn.Module, parts: Sequence[tuple[str, int]]) -> nn.Module:
        """Put the adapters of some linears, fused into one, on top of it.

        Args:
            linear: whatever computes them, outputs in order.
            parts: full name and output width of each.
        """
        stacked = StackedLora(linear, self, parts)
        for index, adapter in enumerate(self._adapters):
            stacked.add(index, adapter)
        if stacked.empty:
            return linear
        self._wrapped.append(stacked)
        return stacked


class StackedLora(nn.Module):
    """A linear layer, of whatever kind, with several adapters side by side on top."""

    def __init__(self, base: nn.Module, stack: LoraStack, parts: Sequence[tuple[str, int]]) -> None:
        super().__init__()
        self.base = base
        self._stack = stack
        self._parts = parts
        self._blocks: list[_Block] = []
        self._laid_out: tuple[int, ...] | None = None
        self._columns: tuple[int, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether no adapter targets any of its parts."""
        return not self._blocks

    def add(self, index: int, adapter: LoraAdapter) -> None:
        """Take an adapter's factors for these parts, if it has any."""
        start = 0
        for module, width in self._parts:
            if module in adapter.factors:
                self._blocks.append(_Block(index, *adapter.factors[module], start))
            start += width

    def forward(self, x: Tensor) -> Tensor:
        """x [rows, T, in] to [rows, T, out]."""
        y: Tensor = self.base(x)
        if not self._stack.active:
            return y
        if self._laid_out != self._stack.in_use:
            self._lay_out(self._stack.in_use)
        if not self._columns:
            return y
        delta: Tensor = self._b(self._a(x) * self._stack.mask(self._columns, self._places))
        return y.add_(delta)

    def _lay_out(self, in_use: tuple[int, ...]) -> None:
        blocks = [block for block in self._blocks if block.adapter in in_use]
        self._laid_out = in_use
        self._columns = tuple(block.adapter for block in blocks for _ in block.a)
        device = self._stack.like.device
        self._places = torch.tensor(self._columns, dtype=torch.long, device=device)
        if not blocks:
            return
        a = torch.cat([block.a for block in blocks]).to(self._stack.like)
        b = a.new_zeros(sum(width for _, width in self._parts), len(a))
        column = 0
        for block in blocks:
            height, rank = block.b.shape
            b[block.start : block.start + height, column : column + rank] = block.b
            column += rank
        product = PACKED[self._stack.packed] if self._stack.packed else Product
        self._a, self._b = product(a), product(b)
