"""Linears with adapters on top: where the factors lie, and how they are added to the product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from mpd_core.errors import PackError
from mpd_core.models import kernels
from mpd_core.models.adapter_config import MERGE
from mpd_core.models.linear import PACKED


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
        """[rows, 1, R]: each row's weight, scaled, at columns that belong to these adapters;
        ``places`` are the same as a tensor on the device."""
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


class StackedLora(nn.Module):
    """A linear layer, of whatever kind, with several adapters on top."""

    def __init__(self, base: nn.Module, routing: Routing, parts: Sequence[tuple[str, int]]) -> None:
        """Take what computes some linears as one; ``parts``: full name and width of each."""
        super().__init__()
        self.base = base
        self._routing = routing
        self._parts = parts
        self._blocks: list[Block] = []

    @property
    def empty(self) -> bool:
        """Whether no adapter targets any of its parts."""
        return not self._blocks

    def take(self, index: int, held: dict[str, tuple[Tensor, Tensor]]) -> None:
        """Take an adapter's factors for these parts, if it has any."""
        start = 0
        for module, width in self._parts:
            if module in held:
                self._blocks.append(Block(index, module, start, held))
            start += width

    def forward(self, x: Tensor) -> Tensor:
        """x [rows, T, in] to [rows, T, out]; some architectures have [rows x T, in], or more axes.

        Raises:
            PackError: it is called for other tokens than all, so that whose they are is not known.
        """
        y: Tensor = self.base.forward(x)
        if not self._routing.active:
            return y
        if x.shape[:-1] == self._routing.size:
            return self._add(x, y)
        rows, tokens = self._routing.size
        known = x.shape[:2] == (rows, tokens) or x.shape[:-1] == (rows * tokens,)
        if not (known and isinstance(y, Tensor)):
            raise PackError(
                f"adapters: the base calls '{self._parts[0][0]}' in a way that LoRA for rows of "
                f"different adapters cannot follow: {MERGE}."
            )
        x, flat = x.reshape(rows, -1, x.shape[-1]), y.reshape(rows, -1, y.shape[-1])
        return self._add(x, flat).view(y.shape)

    def _add(self, x: Tensor, y: Tensor) -> Tensor:
        """y [rows, T, out] with what the adapters of x [rows, T, in] add to it."""
        raise NotImplementedError


class SideBySideLora(StackedLora):
    """On a GPU: two products over the adapters that are laid out, with a mask between them."""

    _laid_out: tuple[int, ...] | None = None
    _columns: tuple[int, ...] = ()

    def __init__(
        self,
        base: nn.Module,
        routing: Routing,
        parts: Sequence[tuple[str, int]],
        packed: torch.dtype | None,
    ) -> None:
        """``packed``: A and B in fp16 or bf16, as ``linear`` has them, which only a CPU can: what a
        row is given is then the same whatever other rows there are."""
        super().__init__(base, routing, parts)
        self._product = PACKED[packed] if packed else lambda w: partial(F.linear, weight=w)

    def _add(self, x: Tensor, y: Tensor) -> Tensor:
        if self._laid_out != self._routing.in_use:
            self._lay_out(y.shape[-1])
        if not self._columns:
            return y
        mask = self._routing.mask(self._columns, self._places)
        down, up = self._products
        # Not a product alone: where an adapter overflows, rows without it would get 0 x inf, NaN.
        return y.add_(up((down(x) * mask).masked_fill_(mask == 0.0, 0.0)))

    def _lay_out(self, width: int) -> None:
        self._laid_out, like = self._routing.in_use, self._routing.weights
        assert like is not None
        blocks = [block for block in self._blocks if block.adapter in self._laid_out]
        self._columns = tuple(block.adapter for block in blocks for _ in block.factors[0])
        self._places = torch.tensor(self._columns, dtype=torch.long, device=like.device)
        if not blocks:
            return
        a = torch.cat([block.factors[0] for block in blocks]).to(like)
        b = a.new_zeros(width, len(a))
        column = 0
        for block in blocks:
            own = block.factors[1]
            height, rank = own.shape
            b[block.start : block.start + height, column : column + rank] = own
            column += rank
        self._products = self._product(a), self._product(b)


class RowLoopLora(StackedLora):
    """On a CPU: a loop over rows; nothing is laid out anew when others come and go."""

    _table: Any = ()

    def _add(self, x: Tensor, y: Tensor) -> Tensor:
        weights = self._routing.weights
        assert weights is not None
        y = y.contiguous()
        rows_x, rows_y = x.reshape(-1, x.shape[-1]).numpy(), y.view(-1, y.shape[-1]).numpy()
        kernels.add_lora(rows_x, weights.numpy(), *self.joined, rows_y)
        return y

    @property
    def joined(self) -> tuple[Any, Any, Any]:
        """The table, A and B, as ``kernels.add_lora`` takes them."""
        if len(self._table) != len(self._blocks):
            self._join()
        return self._table, self._a.numpy(), self._b.numpy()

    def _join(self) -> None:
        """Move factors to where ``kernels.add_lora`` reads them; fp16 stays fp16."""
        pairs = [block.factors for block in self._blocks]
        kind = torch.float16 if pairs[0][0].dtype is torch.float16 else torch.float32
        a = torch.cat([a for a, _ in pairs]).to(kind)
        b = torch.cat([b.t().flatten() for _, b in pairs]).to(kind)
        table, first, place = [], 0, 0
        for block, (_, own) in zip(self._blocks, pairs, strict=True):
            height, rank = own.shape
            table.append((block.adapter, first, rank, block.start, height, place))
            moved = b[place : place + own.numel()].view(rank, height).t()
            # The same factors: where they were, they cost nothing any more.
            block.held[block.module] = a[first : first + rank], moved
            first, place = first + rank, place + own.numel()
        self._table = np.array(table)
        seen = torch.int16 if kind is torch.float16 else kind
        self._a, self._b = a.view(seen), b.view(seen)


def base_of(linear: nn.Module) -> Any:
    """What lies under the adapters of a linear: itself where it has none."""
    return linear.base if isinstance(linear, StackedLora) else linear
