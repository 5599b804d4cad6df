"""What a LLaMA decoder does between its products: in torch's operators, or in compiled loops.

Attention in torch serves GPUs and all other architectures, too. On a CPU it is equal to the bit
whatever other rows and tokens there are, and however far the window reaches beyond what a token may
see. torch's fused attention is not: its matrix library sums in another order where shapes or memory
alignment differ, and with these differ the thread that a row falls to, the tokens that come with
it, and the longest row. Here queries come in products of one size, and these begin at a multiple of
64 bytes; only the window grows, where sums do not change.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from mpd_core.models import kernels
from mpd_core.models.cache import RowCacheLayer, Window

FEW = (3, 2, 1)
"""Heads in one product of a decode step: from four queries on, the order of sums depends on how
many positions they go over."""
TILE = 32
"""Tokens in one product of a prefill pass."""
BLOCK = 128
"""Positions that such a product sums over."""


@dataclass(frozen=True)
class Pass:
    """What all layers of one forward pass share."""

    cos: Tensor
    """[rows, T, d]."""
    sin: Tensor
    """Likewise, its first half negated."""
    mask: Tensor | None
    """Where a token may look, [rows, 1, T, window]; loops do not ask."""
    window: Window

    @cached_property
    def bias(self) -> Tensor:
        """The mask as attention adds it."""
        assert self.mask is not None
        return as_bias(self.mask, self.cos.dtype)

    @cached_property
    def arrays(self) -> tuple[Any, Any, Any, Any]:
        """cos, sin, each row's place in the cache [rows] and positions [rows, T]; on a CPU."""
        places, positions = self.window.row_numbers, self.window.positions.contiguous()
        return self.cos.numpy(), self.sin.numpy(), places.numpy(), positions.numpy()


class TorchOperators:
    """On any device."""

    def __init__(self, heads: int, kv_heads: int, eps: float) -> None:
        self._heads = heads
        self._kv_heads = kv_heads
        self._eps = eps

    def add_norm(self, x: Tensor, update: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """x + update, which may be written over update, and its RMS norm; all [rows, T, D]."""
        x = x + update
        return x, F.rms_norm(x, weight.shape, weight, self._eps)

    def gated(self, x: Tensor) -> Tensor:
        """silu(gate) * up of [..., 2 I]: [..., I]."""
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    def attend(self, qkv: Tensor, shared: Pass, layer: RowCacheLayer) -> Tensor:
        """Cache new keys and values, and look back at all of them.

        Args:
            qkv: queries, keys and values of all heads, [rows, T, (heads + 2 kv_heads) d].
            shared: of this pass.
            layer: of the cache.

        Returns:
            [rows, T, heads d].
        """
        rows, length, _ = qkv.shape
        parts = self._by_head(qkv).transpose(1, 2)
        turned = rotate(parts[:, : -self._kv_heads], shared.cos[:, None], shared.sin[:, None])
        q, k, v = turned[:, : self._heads], turned[:, self._heads :], parts[:, -self._kv_heads :]
        keys, values = layer.update(k, v)
        mixed = attention(q, keys, values, shared.bias)
        return mixed.transpose(1, 2).reshape(rows, length, -1)

    def _by_head(self, qkv: Tensor) -> Tensor:
        return qkv.view(*qkv.shape[:-1], self._heads + 2 * self._kv_heads, -1)


class LoopOperators(TorchOperators):
    """On a CPU, in fp32: each row to the bit what it is alone."""

    def add_norm(self, x: Tensor, update: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        out = torch.empty_like(x)
        kernels.add_norm(as_rows(x), as_rows(update), weight.numpy(), self._eps, as_rows(out))
        return update, out

    def gated(self, x: Tensor) -> Tensor:
        out = x.new_empty(*x.shape[:-1], x.shape[-1] // 2)
        kernels.gated(as_rows(x), as_rows(out))
        return out

    def attend(self, qkv: Tensor, shared: Pass, layer: RowCacheLayer) -> Tensor:
        parts = self._by_head(qkv)
        out = torch.empty_like(parts[:, :, : self._heads])
        cached = self._cached(parts, layer)
        cos, sin, places, positions = shared.arrays
        kernels.attend(parts.numpy(), cos, sin, *cached, places, positions, out.numpy())
        return out.flatten(2)

    def store(self, qkv: Tensor, shared: Pass, layer: RowCacheLayer) -> None:
        """Cache new keys and values, as ``attend`` does, and attend to nothing."""
        parts = self._by_head(qkv)
        cos, sin, places, positions = shared.arrays
        cached = self._cached(parts, layer)
        kernels.store(parts.numpy(), cos, sin, *cached, places, positions)

    def _cached(self, parts: Tensor, layer: RowCacheLayer) -> tuple[Any, Any]:
        return layer.arrays(parts[:, :, self._heads : -self._kv_heads].transpose(1, 2))


def as_rows(x: Tensor) -> Any:
    """[..., n] as an array [rows, n]."""
    return x.view(-1, x.shape[-1]).numpy()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding (Su et al., 2021) on [rows, heads, T, d].

    cos and sin are [rows, 1, T, d], the first half of sin negated.
    """
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)


def as_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where a mask is true, -inf elsewhere; any shape."""
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, -torch.inf)


def attention(q: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v, where several heads may share keys.

    Args:
        q: [rows, heads, T, d].
        keys: [rows, kv_heads, window, d].
        values: likewise; their d may be another.
        bias: ``as_bias`` of where a token may look, [rows, 1, T, window].

    Returns:
        [rows, heads, T, d of the values].
    """
    one = q.shape[2] == 1
    if not q.is_cuda:
        return (_decode if one else _prefill)(q, keys, values, bias)
    if not one:
        return F.scaled_dot_product_attention(q, keys, values, attn_mask=bias, enable_gqa=True)
    # Heads that share keys are as good as so many tokens, and nothing is repeated.
    grouped = q.reshape(len(q), keys.shape[1], -1, q.shape[-1])
    mixed = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=bias)
    return mixed.reshape(q.shape)


def _decode(q: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    rows, heads, _, width = q.shape
    shared, window = keys.shape[1:3]
    keys, values = keys.flatten(0, 1).transpose(1, 2), values.flatten(0, 1)
    queries = (q * width**-0.5).reshape(rows * shared, -1, width)
    few = next(size for size in FEW if queries.shape[1] % size == 0)
    mixed = []
    for part in queries.split(few, dim=1):
        scores = torch.bmm(part, keys)
        scores.view(rows, shared, few, window).add_(bias)
        mixed.append(torch.bmm(scores.softmax(dim=-1), values))
    return (mixed[0] if len(mixed) == 1 else torch.cat(mixed, dim=1)).view(rows, heads, 1, -1)


def _prefill(q: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    rows, heads, length, width = q.shape
    shared, window = keys.shape[1:3]
    keys, values = keys.flatten(0, 1), values.flatten(0, 1)
    fill = (0, 0, 0, -length % TILE)
    q, bias = F.pad(q * width**-0.5, fill), F.pad(bias, fill)
    tiles = q.view(rows, shared, heads // shared, -1, TILE, width).transpose(2, 3)
    queries = tiles.reshape(rows * shared, tiles.shape[2], -1, width)
    scores = _products(queries, keys.transpose(1, 2))
    scores.view(*tiles.shape[:-1], window).add_(bias.view(rows, 1, -1, 1, TILE, window))
    weights = scores.softmax(dim=-1)
    mixed = queries.new_zeros(*queries.shape[:3], values.shape[-1])
    for start in range(0, window, BLOCK):
        block = slice(start, start + BLOCK)
        mixed += _products(weights[..., block], values[:, block])
    mixed = mixed.view(*tiles.shape[:-1], -1).transpose(2, 3)
    return mixed.reshape(rows, heads, -1, mixed.shape[-1])[:, :, :length]


def _products(x: Tensor, y: Tensor) -> Tensor:
    """x [B, P, m, k] times y [B, k, n]: [B, P, m, n], as B x P products of one shape.

    Neither x nor y is repeated in memory: the shorter of the two axes is a loop.
    """
    blocks, pieces = x.shape[:2]
    if pieces <= blocks:
        return torch.stack([torch.bmm(x[:, piece], y) for piece in range(pieces)], dim=1)
    return torch.stack(
        [torch.bmm(x[block], y[block].expand(pieces, -1, -1)) for block in range(blocks)]
    )
