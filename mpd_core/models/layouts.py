"""Where the factors of a linear's adapters lie, and how they are added to what it computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from mpd_core.models import kernels
from mpd_core.models.linear import PACKED, FixedLinear


class Routing:
    """Which adapters the rows of the present pass use: set once a pass, read by every linear."""

    def __init__(self) -> None:
        self.in_use: tuple[int, ...] = ()
        """Adapters that are laid out; a pass may use fewer."""
        self.active = False
        """Whether any row of the present pass has an adapter."""
        self.weights: Tensor | None = None
        """Each row's weight of each adapter in the present pass, scaled, [rows, adapters]."""
        self.size = (0, 0)
        """Rows, and tokens of each, in the present pass."""
        self._masks: dict[tuple[int, ...], Tensor] = {}

    def begin(self, weights: Tensor, tokens: int) -> None:
        """The next pass, with so many tokens a row."""
        self._masks.clear()
        self.weights, self.size = weights, (len(weights), tokens)

    def mask(self, columns: tuple[int, ...], places: Tensor) -> Tensor:
        """[rows, 1, R]: each row's weight, scaled, at columns that belong to these adapters.

        Args:
            columns: index of each column's adapter.
            places: the same as a tensor on the device.
        """
        assert self.weights is not None
        if columns not in self._masks:  # once a pass for all linears with the same columns
            self._masks[columns] = self.weights.index_select(1, places)[:, None, :]
        return self._masks[columns]


@dataclass(frozen=True)
class Block:
    """One adapter's part of a stacked linear."""

    adapter: int
    module: str
    start: int
    """First output that it adds to."""
    held: dict[str, tuple[Tensor, Tensor]]
    """All of the adapter's factors by module: A [r, in] and B [part, r]."""

    @property
    def factors(self) -> tuple[Tensor, Tensor]:
        """A and B of its module."""
        return self.held[self.module]

    def move(self, a: Tensor, b: Tensor) -> None:
        """The same factors, elsewhere in memory: where they were, they cost nothing any more."""
        self.held[self.module] = (a, b)


class LoraLayout(Protocol):
    """A way to add what adapters compute."""

    def add(self, x: Tensor, y: Tensor, blocks: Sequence[Block]) -> Tensor:
        """y [rows, T, out] with what the adapters of x [rows, T, in] add to it."""


class SideBySideLora:
    """Two products over the adapters that are laid out, with a mask between them."""

    def __init__(self, routing: Routing, like: Tensor, packed: torch.dtype | None) -> None:
        """``like`` has the type and the device of what is laid out; ``packed``: to fp16 or bf16."""
        self._routing, self._like = routing, like
        self._product = PACKED[packed] if packed else FixedLinear
        self._laid_out: tuple[int, ...] | None = None
        self._columns: tuple[int, ...] = ()

    def add(self, x: Tensor, y: Tensor, blocks: Sequence[Block]) -> Tensor:
        """y with what the adapters add to it."""
        if self._laid_out != self._routing.in_use:
            self._lay_out(blocks, y.shape[-1])
        if not self._columns:
            return y
        mask = self._routing.mask(self._columns, self._places)
        # Not a product alone: where an adapter overflows, rows without it would get 0 x inf, NaN.
        inner = (self._a(x) * mask).masked_fill_(mask == 0.0, 0.0)
        delta: Tensor = self._b(inner)
        return y.add_(delta)

    def _lay_out(self, blocks: Sequence[Block], width: int) -> None:
        blocks = [block for block in blocks if block.adapter in self._routing.in_use]
        self._laid_out = self._routing.in_use
        pairs = [block.factors for block in blocks]
        owners = zip(blocks, pairs, strict=True)
        self._columns = tuple(block.adapter for block, (a, _) in owners for _ in a)
        self._places = torch.tensor(self._columns, dtype=torch.long, device=self._like.device)
        if not blocks:
            return
        a = torch.cat([a for a, _ in pairs]).to(self._like)
        b = a.new_zeros(width, len(a))
        column = 0
        for block, (_, own) in zip(blocks, pairs, strict=True):
            height, rank = own.shape
            b[block.start : block.start + height, column : column + rank] = own
            column += rank
        self._a, self._b = self._product(a), self._product(b)


class RowLoopLora:
    """A loop over rows; nothing is laid out anew when others come and go."""

    def __init__(self, routing: Routing) -> None:
        self._routing = routing
        self._table: Any = ()
        self._a = self._b = torch.empty(0)

    def add(self, x: Tensor, y: Tensor, blocks: Sequence[Block]) -> Tensor:
        """y with what the adapters add to it."""
        joined, weights = self.joined(blocks), self._routing.weights
        assert weights is not None
        y = y.contiguous()
        rows_x, rows_y = x.reshape(-1, x.shape[-1]).numpy(), y.view(-1, y.shape[-1]).numpy()
        kernels.add_lora(rows_x, weights.numpy(), *joined, rows_y)
        return y

    def joined(self, blocks: Sequence[Block]) -> tuple[Any, Any, Any]:
        """The table, A and B, as ``kernels.add_lora`` takes them."""
        if len(self._table) != len(blocks):
            self._join(blocks)
        return self._table, self._a.numpy(), self._b.numpy()

    def _join(self, blocks: Sequence[Block]) -> None:
        """Move factors to where ``kernels.add_lora`` reads them; fp16 stays fp16."""
        pairs = [block.factors for block in blocks]
        kind = torch.float16 if pairs[0][0].dtype is torch.float16 else torch.float32
        a = torch.cat([a for a, _ in pairs]).to(kind)
        b = torch.cat([b.t().flatten() for _, b in pairs]).to(kind)
        table, first, place = [], 0, 0
        for block, (_, own) in zip(blocks, pairs, strict=True):
            height, rank = own.shape
            table.append((block.adapter, first, rank, block.start, height, place))
            moved = b[place : place + own.numel()].view(rank, height).t()
            block.move(a[first : first + rank], moved)
            first, place = first + rank, place + own.numel()
        self._table = np.array(table)
        seen = torch.int16 if kind is torch.float16 else kind
        self._a, self._b = a.view(seen), b.view(seen)
