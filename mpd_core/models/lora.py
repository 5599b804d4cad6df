"""Stacked LoRA: every row of a batch with its own adapter, over a linear that stays a black box.

On a GPU the adapters of a linear lie side by side, ``y = base(x) + ((x @ A) * mask) @ B``: A
[in, R], B [R, out], R the sum of their ranks. The mask [rows, 1, R] holds a row's weight, scaled,
at the columns of its adapters and 0 elsewhere, so a row without an adapter is exactly the base. On
a CPU each row reads its own adapters and no others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mpd_core.models import kernels
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

    Only adapters that live rows use take part in a pass: side-by-side matrices are laid out anew
    when that set changes, which is when a request joins or leaves.
    """

    def __init__(
        self,
        adapters: Sequence[LoraAdapter],
        model: nn.Module,
        like: Tensor,
        *,
        packed: torch.dtype | None = None,
        loops: bool = False,
    ) -> None:
        """Check the adapters against a model.

        Args:
            adapters: any ranks, any target modules.
            model: has every targeted linear under its full name, before anything is wrapped.
            like: a tensor with the compute dtype and the device.
            packed: hold A and B packed to fp16 or bf16 (CPU only).
            loops: compute each row with its own adapters, in compiled loops (CPU only).

        Raises:
            PackError: as ``LoraAdapter.check``.
        """
        for adapter in adapters:
            adapter.check(model)
        self.packed = packed
        self.loops = loops
        self._adapters = [self._hold(adapter) for adapter in adapters]
        self._index = {adapter.name: k for k, adapter in enumerate(adapters)}
        self.like = like.new_empty(0)  # not the tensor itself, which may be large
        self._wrapped: list[StackedLora] = []
        self.present: Tensor | None = None
        """Each row's weight of each adapter in the present pass, scaled, [rows, adapters]."""
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
        self.present = gates

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
            parts = [self._adapters[self._index[n]] for n in name.split("+")]
            adapter = self._hold(mean_of_factors(parts))
            self._index[name] = len(self._adapters)
            self._adapters.append(adapter)
            for stacked in self._wrapped:
                stacked.add(self._index[name], adapter)
        return self._index[name]

    def _hold(self, adapter: LoraAdapter) -> LoraAdapter:
        return adapter.to(self.packed) if self.packed else adapter

    def mask(self, columns: tuple[int, ...], places: Tensor) -> Tensor:
        """[rows, 1, R]: each row's weight, scaled, at columns that belong to these adapters.

        Args:
            columns: index of each column's adapter.
            places: the same as a tensor on the device.
        """
        assert self.present is not None
        if columns not in self._masks:  # once a pass for all linears with the same columns
            self._masks[columns] = self.present.index_select(1, places)[:, None, :]
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
    """A linear layer, of whatever kind, with several adapters on top."""

    def __init__(self, base: nn.Module, stack: LoraStack, parts: Sequence[tuple[str, int]]) -> None:
        super().__init__()
        self.base = base
        self._stack = stack
        self._parts = parts
        self._blocks: list[_Block] = []
        self._layout = _Apart() if stack.loops else _SideBySide()

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
        y: Tensor = self.base.forward(x)
        if not self._stack.active:
            return y
        return self._layout.add(x, y, self._blocks, self._stack)


class _SideBySide:
    """Two products over the adapters that are laid out, with a mask between them."""

    def __init__(self) -> None:
        self._laid_out: tuple[int, ...] | None = None
        self._columns: tuple[int, ...] = ()

    def add(self, x: Tensor, y: Tensor, blocks: Sequence[_Block], stack: LoraStack) -> Tensor:
        """y with what the adapters add to it."""
        if self._laid_out != stack.in_use:
            self._lay_out(blocks, y.shape[-1], stack)
        if not self._columns:
            return y
        delta: Tensor = self._b(self._a(x) * stack.mask(self._columns, self._places))
        return y.add_(delta)

    def _lay_out(self, blocks: Sequence[_Block], width: int, stack: LoraStack) -> None:
        blocks = [block for block in blocks if block.adapter in stack.in_use]
        self._laid_out = stack.in_use
        self._columns = tuple(block.adapter for block in blocks for _ in block.a)
        self._places = torch.tensor(self._columns, dtype=torch.long, device=stack.like.device)
        if not blocks:
            return
        a = torch.cat([block.a for block in blocks]).to(stack.like)
        b = a.new_zeros(width, len(a))
        column = 0
        for block in blocks:
            height, rank = block.b.shape
            b[block.start : block.start + height, column : column + rank] = block.b
            column += rank
        product = PACKED[stack.packed] if stack.packed else Product
        self._a, self._b = product(a), product(b)


class _Apart:
    """A loop over rows; nothing is laid out anew when others come and go."""

    def __init__(self) -> None:
        self._arrays: tuple[Any, Any, Any] = ((), (), ())

    def add(self, x: Tensor, y: Tensor, blocks: Sequence[_Block], stack: LoraStack) -> Tensor:
        """y with what the adapters add to it."""
        if len(self._arrays[0]) != len(blocks):
            self._arrays = _as_arrays(blocks)
        assert stack.present is not None
        y = y.contiguous()
        rows_x, rows_y = x.reshape(-1, x.shape[-1]).numpy(), y.view(-1, y.shape[-1]).numpy()
        kernels.add_lora(rows_x, stack.present.numpy(), *self._arrays, rows_y)
        return y


def _as_arrays(blocks: Sequence[_Block]) -> tuple[Any, Any, Any]:
    """Blocks as ``kernels.add_lora`` takes them; fp16 stays fp16, seen as int16."""
    table, first, place = [], 0, 0
    for block in blocks:
        height, rank = block.b.shape
        table.append((block.adapter, first, rank, block.start, height, place))
        first, place = first + rank, place + block.b.numel()
    a = torch.cat([block.a for block in blocks])
    b = torch.cat([block.b.t().flatten() for block in blocks])
    if a.dtype is torch.float16:
        return np.array(table), a.view(torch.int16).numpy(), b.view(torch.int16).numpy()
    return np.array(table), a.float().numpy(), b.float().numpy()
