"""The LLaMA decoder written out for the engine: few, fused operations over rows.

The same function as transformers' LlamaModel (a test holds them together), but with q, k, v and
gate, up each fused into one product, masks and rotations made once a pass, and the row cache
written in place. At small batches half of a step on the CPU is otherwise Python and small
operations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from mpd_core.models.attention import as_bias, attention
from mpd_core.models.cache import RowCache
from mpd_core.models.linear import fuse, width_of
from mpd_core.models.lora import LoraStack


@dataclass(frozen=True)
class Layer:
    """One decoder layer; the norms are weights [D]."""

    attention_norm: Tensor
    qkv: nn.Module
    out: nn.Module
    mlp_norm: Tensor
    gate_up: nn.Module
    down: nn.Module


def is_llama(model: Any) -> bool:
    """Whether ``LlamaBody`` computes what this model computes."""
    return (model.config.model_type, model.config.hidden_act) == ("llama", "silu")


class LlamaBody:
    """The decoder of a ``LlamaForCausalLM``, or some of its layers; weights are taken over."""

    def __init__(
        self,
        model: Any,
        stack: LoraStack,
        *,
        packed: torch.dtype | None,
        layers: range | None = None,
    ) -> None:
        """Take over layers that lie together; the first embeds, the last norms; default: all."""
        config = model.config
        layers = layers or range(config.num_hidden_layers)
        self._last = layers.stop == config.num_hidden_layers
        self._heads = config.num_attention_heads
        self._kv_heads = config.num_key_value_heads
        self._eps = config.rms_norm_eps
        self._eps_tensor = torch.tensor(config.rms_norm_eps)
        if layers.start == 0:
            embeddings: Tensor = model.get_input_embeddings().weight.detach()
            self._embeddings = embeddings.to(packed) if packed else embeddings
        self._norm: Tensor = model.model.norm.weight.detach()
        self._rotary: nn.Module = model.model.rotary_emb
        if self._last:
            self.lm_head: nn.Module = fuse([model.lm_head], packed=packed)
        self._layers = [
            _take_layer(f"model.layers.{k}", model.model.layers[k], stack, packed=packed)
            for k in layers
        ]

    def __call__(self, inputs: Tensor, positions: Tensor, mask: Tensor, cache: RowCache) -> Tensor:
        """Tokens, or states of the layers below, to hidden states [rows, T, D]."""
        x = inputs
        if not x.is_floating_point():
            x = F.embedding(inputs, self._embeddings).to(self._norm.dtype)
        cos, sin = (part.unsqueeze(1) for part in self._rotary(x, positions))  # [rows, 1, T, d]
        sin[..., : sin.shape[-1] // 2].neg_()  # as ``_rotate`` takes it
        bias = as_bias(mask, x.dtype)
        for index, layer in enumerate(self._layers):
            x = x + self._attend(
                index, layer, self._normed(x, layer.attention_norm), cos, sin, bias, cache
            )
            gate, up = layer.gate_up(self._normed(x, layer.mlp_norm)).chunk(2, dim=-1)
            x = x + layer.down(F.silu(gate).mul_(up))
        return self._normed(x, self._norm) if self._last else x

    def products(self) -> Iterator[nn.Module]:
        """Its linear layers, and the output layer where it has one."""
        for layer in self._layers:
            yield from (layer.qkv, layer.out, layer.gate_up, layer.down)
        if self._last:
            yield self.lm_head

    def _attend(
        self,
        index: int,
        layer: Layer,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        bias: Tensor,
        cache: RowCache,
    ) -> Tensor:
        rows, length, _ = x.shape
        heads = self._heads + 2 * self._kv_heads
        qkv = layer.qkv(x).view(rows, length, heads, -1).transpose(1, 2)
        turned = _rotate(qkv[:, : -self._kv_heads], cos, sin)
        q, k, v = turned[:, : self._heads], turned[:, self._heads :], qkv[:, -self._kv_heads :]
        keys, values = cache.layers[index].update(k, v)
        mixed = attention(q, keys, values, bias)
        y: Tensor = layer.out(mixed.transpose(1, 2).reshape(rows, length, -1))
        return y

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        if x.is_cuda:
            return F.rms_norm(x, weight.shape, weight, self._eps)
        # The same in six small operations; torch's takes ten on a CPU.
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        mean = torch.addcmul(self._eps_tensor, norm, norm, value=1 / len(weight))
        return mean.rsqrt_().mul(x).mul_(weight)


def _take_layer(name: str, layer: Any, stack: LoraStack, *, packed: torch.dtype | None) -> Layer:
    def take(block: str, *children: str) -> nn.Module:
        linears = [layer.get_submodule(f"{block}.{child}") for child in children]
        parts = [
            (f"{name}.{block}.{child}", width_of(linear))
            for child, linear in zip(children, linears, strict=True)
        ]
        return stack.wrap(fuse(linears, packed=packed), parts)

    return Layer(
        attention_norm=layer.input_layernorm.weight.detach(),
        qkv=take("self_attn", "q_proj", "k_proj", "v_proj"),
        out=take("self_attn", "o_proj"),
        mlp_norm=layer.post_attention_layernorm.weight.detach(),
        gate_up=take("mlp", "gate_proj", "up_proj"),
        down=take("mlp", "down_proj"),
    )


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding (Su et al., 2021) on [rows, heads, T, d].

    cos and sin are [rows, 1, T, d], the first half of sin negated.
    """
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)
