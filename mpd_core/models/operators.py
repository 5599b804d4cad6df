"""What a LLaMA decoder does between its products: in torch's operators, or in compiled loops."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from mpd_core.models import kernels
from mpd_core.models.attention import as_bias, attention
from mpd_core.models.cache import RowCacheLayer, Window


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
