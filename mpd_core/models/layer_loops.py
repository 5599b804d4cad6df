"""All layers of a LLaMA decoder as one compiled loop, where every product is of blocks.

What its steps compute is what ``operators`` and ``BlockLinear`` compute one by one, to the bit:
they are the same loops. But a step of one request takes a few microseconds in each, and as long in
Python before the next.

Where things lie in memory is in a table, a line a layer; ``layer_table`` writes it.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import typeof

from mpd_core.models.block_loops import PANEL, multiply
from mpd_core.models.compiling import compiled
from mpd_core.models.kernels import add_lora, add_norm, attend, gated, store
from mpd_core.models.level_loops import BLOCK, DIGITS, Levels, to_levels
from mpd_core.models.number_code import Array, Factor, Whole, array_at

NORM, MLP_NORM, KEYS, VALUES = range(4)
"""Columns of addresses, before those of a layer's four products."""
CODES, SCALES, PANELS, BLOCKS, WORDS, ADAPTERS, COUNT, A, A_SIZE, B, B_SIZE = range(11)
"""Columns of one product: its blocks' addresses and shape, then what ``add_lora`` takes."""
PRODUCT = 11
QKV, OUT, GATE_UP, DOWN, COLUMNS = range(4, 4 + 5 * PRODUCT, PRODUCT)
ADAPTER_COLUMNS = 6


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
