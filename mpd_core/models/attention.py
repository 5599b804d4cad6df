"""Grouped-query attention over rows that reach differently far into their caches, in torch.

A decoder that is written out runs in ``kernels.attend`` on a CPU; other architectures and GPUs come
here.

On a CPU equal to the bit whatever other rows and tokens there are, and however far the window
reaches beyond what a token may see. torch's fused attention is not: its matrix library sums in
another order where shapes or memory alignment differ, and with these differ the thread that a row
falls to, the tokens that come with it, and the longest row. Here queries come in products of one
size, and these begin at a multiple of 64 bytes; only the window grows, where sums do not change.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

FEW = (3, 2, 1)
"""Heads in one product of a decode step: from four queries on, the order of sums depends on how
many positions they go over."""
TILE = 32
"""Tokens in one product of a prefill pass."""
BLOCK = 128
"""Positions that such a product sums over."""


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
