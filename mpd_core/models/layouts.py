"""Where the factors of a linear's adapters lie, and how they are added to what it computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mpd_core.models import kernels
from mpd_core.models.linear import PACKED, Product

if TYPE_CHECKING:
    from mpd_core.models.lora import LoraStack


@dataclass(frozen=True)
class Block:
    """One adapter's part of a stacked linear; its factors are the stack's."""

    adapter: int
    module: str
    start: int
    """First output that it adds to."""


class Together:
    """Two products over the adapters that are laid out, with a mask between them."""

    def __init__(self) -> None:
        self._laid_out: tuple[int, ...] | None = None
        self._columns: tuple[int, ...] = ()

    def add(self, x: Tensor, y: Tensor, blocks: Sequence[Block], stack: LoraStack) -> Tensor:
        """y with what the adapters add to it."""
        if self._laid_out != stack.in_use:
            self._lay_out(blocks, y.shape[-1], stack)
        if not self._columns:
            return y
        mask = stack.mask(self._columns, self._places)
        # Not a product alone: where an adapter overflows, rows without it would get 0 x inf, NaN.
        inner = (self._a(x) * mask).masked_fill_(mask == 0.0, 0.0)
        delta: Tensor = self._b(inner)
        return y.add_(delta)

    def _lay_out(self, blocks: Sequence[Block], width: int, stack: LoraStack) -> None:
        blocks = [block for block in blocks if block.adapter in stack.in_use]
        self._laid_out = stack.in_use
        pairs = [stack.factors(block) for block in blocks]
        owners = zip(blocks, pairs, strict=True)
        self._columns = tuple(block.adapter for block, (a, _) in owners for _ in a)
        self._places = torch.tensor(self._columns, dtype=torch.long, device=stack.like.device)
        if not blocks:
            return
        a = torch.cat([a for a, _ in pairs]).to(stack.like)
        b = a.new_zeros(width, len(a))
        column = 0
        for block, (_, own) in zip(blocks, pairs, strict=True):
            height, rank = own.shape
            b[block.start : block.start + height, column : column + rank] = own
            column += rank
        product = PACKED[stack.packed] if stack.packed else Product
        self._a, self._b = product(a), product(b)


class Apart:
    """A loop over rows; nothing is laid out anew when others come and go."""

    def __init__(self) -> None:
        self._table: Any = ()
        self._a = self._b = torch.empty(0)

    def add(self, x: Tensor, y: Tensor, blocks: Sequence[Block], stack: LoraStack) -> Tensor:
        """y with what the adapters add to it."""
        if len(self._table) != len(blocks):
            self._join(blocks, stack)
        assert stack.present is not None
        y = y.contiguous()
        rows_x, rows_y = x.reshape(-1, x.shape[-1]).numpy(), y.view(-1, y.shape[-1]).numpy()
        gates, a, b = stack.present.numpy(), self._a.numpy(), self._b.numpy()
        kernels.add_lora(rows_x, gates, self._table, a, b, rows_y)
        return y

    def _join(self, blocks: Sequence[Block], stack: LoraStack) -> None:
        """Move factors to where ``kernels.add_lora`` reads them; fp16 stays fp16."""
        pairs = [stack.factors(block) for block in blocks]
        kind = torch.float16 if pairs[0][0].dtype is torch.float16 else torch.float32
        a = torch.cat([a for a, _ in pairs]).to(kind)
        b = torch.cat([b.t().flatten() for _, b in pairs]).to(kind)
        table, first, place = [], 0, 0
        for block, (_, own) in zip(blocks, pairs, strict=True):
            height, rank = own.shape
            table.append((block.adapter, first, rank, block.start, height, place))
            moved = b[place : place + own.numel()].view(rank, height).t()
            stack.move(block, a[first : first + rank], moved)
            first, place = first + rank, place + own.numel()
        self._table = np.array(table)
        seen = torch.int16 if kind is torch.float16 else kind
        self._a, self._b = a.view(seen), b.view(seen)
