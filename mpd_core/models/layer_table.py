"""Where the layers of a LLaMA decoder lie in memory, for the loop that computes all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mpd_core.models import layer_loops as loops
from mpd_core.models.blocks import BlockLinear
from mpd_core.models.cache import RowCache
from mpd_core.models.layouts import RowLoopLora, base_of
from mpd_core.models.lora import LoraStack
from mpd_core.models.operators import Pass, as_rows

ADAPTERS = slice(loops.ADAPTERS, loops.PRODUCT)
STARTS = (loops.QKV, loops.OUT, loops.GATE_UP, loops.DOWN)


class LayerTable:
    """Norms, blocks, adapters and cached keys and values of some layers, which it keeps alive."""

    def __init__(
        self,
        norms: Sequence[tuple[Tensor, Tensor]],
        products: Sequence[Sequence[nn.Module]],
        stack: LoraStack,
        kv_heads: int,
        eps: float,
    ) -> None:
        """Take each layer's norms of attention and MLP, and its four products in their order."""
        self._stack, self._kv_heads, self._eps = stack, kv_heads, eps
        self._norms = [[norm.contiguous().numpy() for norm in pair] for pair in norms]
        self._products = products
        self._count = -1
        self._cache: RowCache | None = None
        self._adapters: list[Any] = []
        self._table = np.zeros((len(products), loops.COLUMNS), np.int64)
        for row, pair, four in zip(self._table, self._norms, products, strict=True):
            row[[loops.NORM, loops.MLP_NORM]] = [norm.ctypes.data for norm in pair]
            for start, linear in zip(STARTS, four, strict=True):
                codes, scales = base_of(linear).arrays
                shape = codes.shape[:3]
                own = [codes.ctypes.data, scales.ctypes.data, *shape]
                row[start : start + loops.ADAPTERS] = own

    def climb(self, x: Tensor, update: Tensor, shared: Pass, cache: RowCache, whole: int) -> None:
        """So many ``whole`` layers, and keys and values of the next; see ``layer_loops.climb``.

        States x and what they lack, [rows, T, D] both, are written; the cache's window is that of
        this pass.
        """
        if self._count != self._stack.count:
            self._find_adapters()
        if self._cache is not cache:
            self._find_cache(cache, shared.cos.shape[-1])
        routing, rows = self._stack.routing, len(x)
        gates = routing.weights if routing.active else None
        cos, sin, places, positions = shared.arrays
        loops.climb(
            self._table,
            whole,
            self._eps,
            as_rows(x),
            as_rows(update),
            cos,
            sin,
            self._size,
            places,
            positions,
            (x.new_zeros(rows, self._stack.count) if gates is None else gates).numpy(),
            self._kind,
        )

    def _find_adapters(self) -> None:
        self._count, self._adapters = self._stack.count, []
        self._kind: Any = np.empty(0, np.float32)
        for row, start, linear in self._each():
            if isinstance(linear, RowLoopLora):
                table, a, b = joined = linear.joined
                self._adapters.append(joined)
                own = [table.ctypes.data, len(table), a.ctypes.data, a.size, b.ctypes.data, b.size]
                row[start : start + loops.PRODUCT][ADAPTERS] = own
                self._kind = a[:0].ravel()

    def _find_cache(self, cache: RowCache, width: int) -> None:
        like = torch.empty(1, self._kv_heads, 1, width)
        for row, layer in zip(self._table, cache.layers, strict=True):
            keys, values = layer.arrays(like)
            row[[loops.KEYS, loops.VALUES]] = keys.ctypes.data, values.ctypes.data
            self._size = keys.shape
        self._cache = cache

    def _each(self) -> Iterator[tuple[Any, int, nn.Module]]:
        """Line, first column and linear of every product."""
        for row, four in zip(self._table, self._products, strict=True):
            for start, linear in zip(STARTS, four, strict=True):
                yield row, start, linear


def all_in_blocks(products: Sequence[Sequence[nn.Module]]) -> bool:
    """Whether these linears can be in such a table."""
    linears = [base_of(linear) for four in products for linear in four]
    return all(isinstance(linear, BlockLinear) and linear.bare for linear in linears)
