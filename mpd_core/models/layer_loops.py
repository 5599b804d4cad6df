"""All layers of a LLaMA decoder as one compiled loop, where every product is of blocks.

What its steps compute is what ``operators`` and ``BlockLinear`` compute one by one, to the bit:
they are the same loops. But a step of one request takes a few microseconds in each, and as long in
Python before the next. Where things lie in memory is in a table, a line a layer.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numba import typeof
from torch import Tensor, nn

from mpd_core.models.block_loops import PANEL, multiply
from mpd_core.models.blocks import BlockLinear
from mpd_core.models.cache import RowCache
from mpd_core.models.compiling import compiled
from mpd_core.models.kernels import add_lora, add_norm, attend, gated, store
from mpd_core.models.layouts import RowLoopLora, base_of
from mpd_core.models.level_loops import BLOCK, DIGITS, Levels, to_levels
from mpd_core.models.lora import LoraStack
from mpd_core.models.number_code import Array, Factor, Whole, array_at
from mpd_core.models.operators import Pass, as_rows

NORM, MLP_NORM, KEYS, VALUES = range(4)
"""Columns of addresses, before those of a layer's four products."""
CODES, SCALES, PANELS, BLOCKS, WORDS, ADAPTERS, COUNT, A, A_SIZE, B, B_SIZE = range(11)
"""Columns of one product: its blocks' addresses and shape, then what ``add_lora`` takes."""
PRODUCT = 11
QKV, OUT, GATE_UP, DOWN, COLUMNS = range(4, 4 + 5 * PRODUCT, PRODUCT)
ADAPTER_COLUMNS = 6
STARTS = (QKV, OUT, GATE_UP, DOWN)


@compiled(calls=True)
def _multiply(own: Whole, x: Array, levels: Levels, sizes: Array, y: Array) -> None:
    """y = x W^T, of the product whose columns these are."""
    rows, panels, blocks, words = len(x), own[PANELS], own[BLOCKS], own[WORDS]
    shape = (panels, blocks, words, PANEL, 4)
    codes = array_at(own[CODES], panels * blocks * words * PANEL * 4, np.uint8).reshape(shape)
    halves = 2 if words == 4 else 1
    count = panels * blocks * halves * PANEL
    scales = array_at(own[SCALES], count, np.int16).reshape((panels, blocks, halves, PANEL))
    own_levels = levels[: x.size * DIGITS].reshape((rows, blocks, DIGITS, BLOCK))
    own_sizes = sizes[: rows * blocks * 2].reshape((rows, blocks, 2))
    to_levels(x, own_levels, own_sizes)
    multiply(codes, scales, own_levels, own_sizes, y)


@compiled(calls=True)
def _adapt(own: Whole, x: Array, gates: Array, kind: Factor, y: Array) -> None:
    """y with what adapters add to it."""
    if own[COUNT]:
        count = own[COUNT]
        table = array_at(own[ADAPTERS], count * ADAPTER_COLUMNS, np.int64)
        a = array_at(own[A], own[A_SIZE], kind).reshape((own[A_SIZE] // x.shape[1], x.shape[1]))
        b = array_at(own[B], own[B_SIZE], kind)
        add_lora(x, gates, table.reshape((count, ADAPTER_COLUMNS)), a, b, y)


@compiled(calls=True)
def _linear(
    own: Whole, x: Array, levels: Levels, sizes: Array, gates: Array, kind: Factor, y: Array
) -> None:
    """y = x W^T with what adapters add to it."""
    _multiply(own, x, levels, sizes, y)
    _adapt(own, x, gates, kind, y)


@compiled(calls=True)
def climb(
    layers: Whole,
    whole: int,
    eps: float,
    x: Array,
    update: Array,
    cos: Array,
    sin: Array,
    cache: tuple[int, int, int, int],
    places: Whole,
    positions: Whole,
    gates: Array,
    kind: Factor,
) -> None:
    """``whole`` layers, and keys and values of the next, if there is one.

    x, [rows x T, D], are states, of the layer above at the end if there is no next; update is what
    they lack. cos, sin, places and positions: see ``attend``. cache: shape of a layer's keys, and
    of its values. gates: weights of adapters, [rows, adapters]. kind: an array of their type.
    """
    (rows, width), (every, tokens, d) = x.shape, cos.shape
    kv_heads, cached = cache[1], cache[0] * cache[1] * cache[2] * cache[3]
    heads = layers[0, QKV + PANELS] * PANEL // d - 2 * kv_heads
    inner = layers[0, DOWN + BLOCKS] * BLOCK
    most = max(inner, width, heads * d)
    levels = np.empty(rows * most * DIGITS, np.int8)
    sizes = np.empty(rows * most // BLOCK * 2, np.float32)
    normed, mixed = np.empty((rows, width), np.float32), np.empty((rows, heads * d), np.float32)
    qkv = np.empty((rows, (heads + 2 * kv_heads) * d), np.float32)
    wide, narrow = np.empty((rows, 2 * inner), np.float32), np.empty((rows, inner), np.float32)
    by_head = qkv.reshape((every, tokens, heads + 2 * kv_heads, d))
    mixed_by_head = mixed.reshape((every, tokens, heads, d))
    for k in range(len(layers)):
        own = layers[k]
        add_norm(x, update, array_at(own[NORM], width, np.float32), eps, normed)
        x, update = update, x
        _linear(own[QKV:OUT], normed, levels, sizes, gates, kind, qkv)
        keys = array_at(own[KEYS], cached, np.float32).reshape(cache)
        values = array_at(own[VALUES], cached, np.float32).reshape(cache)
        if k == whole:
            store(by_head, cos, sin, keys, values, places, positions)
            break
        attend(by_head, cos, sin, keys, values, places, positions, mixed_by_head)
        _linear(own[OUT:GATE_UP], mixed, levels, sizes, gates, kind, update)
        add_norm(x, update, array_at(own[MLP_NORM], width, np.float32), eps, normed)
        x, update = update, x
        _linear(own[GATE_UP:DOWN], normed, levels, sizes, gates, kind, wide)
        gated(wide, narrow)
        _linear(own[DOWN:COLUMNS], narrow, levels, sizes, gates, kind, update)


@functools.cache
def prepare() -> None:
    """Compile it for this CPU, or take its code from disk: for adapters in fp32 and in fp16."""
    x, table = np.zeros((1, 1), np.float32), np.zeros((1, COLUMNS), np.int64)
    each, places = x[None], table[:, :1].copy()
    loop: Any = climb
    for kind in (np.float32, np.int16):
        shared = (each, each, (1, 1, 1, 1), places[0], places, x, np.zeros(0, kind))
        loop.compile(tuple(map(typeof, (table, 1, 1e-6, x, x, *shared))))


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
        self._table = np.zeros((len(products), COLUMNS), np.int64)
        for row, pair, four in zip(self._table, self._norms, products, strict=True):
            row[[NORM, MLP_NORM]] = [norm.ctypes.data for norm in pair]
            for start, linear in zip(STARTS, four, strict=True):
                codes, scales = base_of(linear).arrays
                shape = codes.shape[:3]
                own = [codes.ctypes.data, scales.ctypes.data, *shape]
                row[start : start + ADAPTERS] = own

    def climb(self, x: Tensor, update: Tensor, shared: Pass, cache: RowCache, whole: int) -> None:
        """So many ``whole`` layers, and keys and values of the next, in the loop above.

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
        climb(
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
        for row, four in zip(self._table, self._products, strict=True):
            for start, linear in zip(STARTS, four, strict=True):
                if not isinstance(linear, RowLoopLora):
                    continue
                table, a, b = joined = linear.joined
                self._adapters.append(joined)
                own = [table.ctypes.data, len(table), a.ctypes.data, a.size, b.ctypes.data, b.size]
                row[start + ADAPTERS : start + PRODUCT] = own
                self._kind = a[:0].ravel()

    def _find_cache(self, cache: RowCache, width: int) -> None:
        like = torch.empty(1, self._kv_heads, 1, width)
        for row, layer in zip(self._table, cache.layers, strict=True):
            keys, values = layer.arrays(like)
            row[[KEYS, VALUES]] = keys.ctypes.data, values.ctypes.data
            self._size = keys.shape
        self._cache = cache


def all_in_blocks(products: Sequence[Sequence[nn.Module]]) -> bool:
    """Whether these linears can be in such a table."""
    linears = [base_of(linear) for four in products for linear in four]
    return all(isinstance(linear, BlockLinear) and linear.bare for linear in linears)
