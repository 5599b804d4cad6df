"""The LLaMA decoder written out for the engine: few, fused operations over rows.

The same function as transformers' LlamaModel (a test holds them together), but with q, k, v and
gate, up each fused into one product, masks and rotations made once a pass, and the row cache
written in place. At small batches most of a step on the CPU is otherwise Python and small
operations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mpd_core.models.blocks import BlockEmbedding, Panels, rounded
from mpd_core.models.cache import RowCache
from mpd_core.models.layer_loops import LayerTable, all_in_blocks
from mpd_core.models.light import LlamaForCausalLM as LlamaModules
from mpd_core.models.linear import fuse, width_of
from mpd_core.models.lora import LoraStack
from mpd_core.models.operators import LoopOperators, Pass, TorchOperators

ROTARY_STEP = 256
"""Positions that are computed at a time."""
ANEW = ("dynamic", "longrope")
"""Kinds whose frequencies depend on how long the text is."""


@dataclass(frozen=True)
class Layer:
    """One decoder layer; the norms are weights [D].

    Linears run by ``forward``: a module's call looks for hooks, longer than a small product takes.
    """

    attention_norm: Tensor
    qkv: nn.Module
    out: nn.Module
    mlp_norm: Tensor
    gate_up: nn.Module
    down: nn.Module


def is_llama(model: Any) -> bool:
    """Whether ``LlamaBody`` computes what this model computes.

    Decided by what was built, not by what its configuration calls itself: biases, widths of heads
    and rotary tables come with the modules that are taken over.
    """
    if type(model) is LlamaModules:
        return True
    if type(model).__name__ != LlamaModules.__name__:
        return False
    from transformers import LlamaForCausalLM
    from transformers.activations import SiLUActivation

    if type(model) is not LlamaForCausalLM:
        return False
    attention, mlp = model.model.layers[0].self_attn, model.model.layers[0].mlp
    return (
        isinstance(mlp.act_fn, nn.SiLU | SiLUActivation)
        and getattr(model.config, "is_causal", True)
        and attention.scaling == attention.head_dim**-0.5
        and 2 * len(model.model.rotary_emb.inv_freq) == attention.head_dim
    )


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
        operators = LoopOperators if stack.loops else TorchOperators
        heads = (config.num_attention_heads, config.num_key_value_heads)
        self._operators = operators(*heads, config.rms_norm_eps)
        if layers.start == 0:
            self._embed = _take_embeddings(model.get_input_embeddings(), packed)
        self._norm: Tensor = model.model.norm.weight.detach()
        self._rotary = Rotary(model.model.rotary_emb)
        if self._last:
            output = [("lm_head", width_of(model.lm_head))]
            self.lm_head: nn.Module = stack.wrap(fuse([model.lm_head], packed=packed), output)
        self._layers = [
            _take_layer(f"model.layers.{k}", model.model.layers[k], stack, packed=packed)
            for k in layers
        ]
        self._table: LayerTable | None = None  # for one loop over all layers
        products = [(k.qkv, k.out, k.gate_up, k.down) for k in self._layers]
        if stack.loops and all_in_blocks(products):
            norms = [(layer.attention_norm, layer.mlp_norm) for layer in self._layers]
            self._table = LayerTable(norms, products, stack, heads[1], config.rms_norm_eps)

    def __call__(
        self, inputs: Tensor, positions: Tensor, mask: Tensor | None, cache: RowCache
    ) -> Tensor:
        """Tokens, or states of the layers below, to hidden states [rows, T, D]."""
        x, update = self._climb(inputs, positions, mask, cache, len(self._layers))
        return self._operators.add_norm(x, update, self._norm)[1] if self._last else x + update

    def fill(self, inputs: Tensor, positions: Tensor, mask: Tensor | None, cache: RowCache) -> None:
        """The same on a CPU where nobody asks for states: the last layer ends with its cache."""
        self._climb(inputs, positions, mask, cache, len(self._layers) - 1)

    def _climb(
        self, inputs: Tensor, positions: Tensor, mask: Tensor | None, cache: RowCache, whole: int
    ) -> tuple[Tensor, Tensor]:
        """So many whole layers, and keys and values of the next: states, and what they lack."""
        update = inputs
        if not update.is_floating_point():
            update = self._embed(inputs).to(self._norm.dtype)
        x = torch.zeros_like(update)
        cos, sin = self._rotary(x, positions)
        shared, operators = Pass(cos, sin, mask, cache.window), self._operators
        if self._table:
            self._table.climb(x, update, shared, cache, whole)
            return x, update
        for k, (layer, cached) in enumerate(zip(self._layers, cache.layers, strict=True)):
            x, normed = operators.add_norm(x, update, layer.attention_norm)
            qkv = layer.qkv.forward(normed)
            if k == whole:
                assert isinstance(operators, LoopOperators)
                operators.store(qkv, shared, cached)
                break
            mixed = operators.attend(qkv, shared, cached)
            x, normed = operators.add_norm(x, layer.out.forward(mixed), layer.mlp_norm)
            update = layer.down.forward(operators.gated(layer.gate_up.forward(normed)))
        return x, update

    def products(self) -> Iterator[nn.Module]:
        """Its linear layers, and the output layer where it has one."""
        for layer in self._layers:
            yield from (layer.qkv, layer.out, layer.gate_up, layer.down)
        if self._last:
            yield self.lm_head


def _take_embeddings(module: Any, packed: torch.dtype | None) -> nn.Module:
    """What gives tokens their vectors; in the type of products, or out of blocks."""
    if isinstance(module, BlockEmbedding):
        return module
    weight: Tensor = module.weight.detach()
    if packed is torch.int8:
        return BlockEmbedding(Panels.of(*rounded(weight)), weight.shape[1])
    weight = weight.to(packed) if packed else weight
    count, width = weight.shape
    return nn.Embedding(count, width, _weight=weight, _freeze=True)


def _take_layer(name: str, layer: Any, stack: LoraStack, *, packed: torch.dtype | None) -> Layer:
    def take(*children: str) -> nn.Module:
        linears = {child: layer.get_submodule(child) for child in children}
        parts = [(f"{name}.{child}", width_of(linear)) for child, linear in linears.items()]
        return stack.wrap(fuse(list(linears.values()), packed=packed), parts)

    return Layer(
        attention_norm=layer.input_layernorm.weight.detach(),
        qkv=take("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        out=take("self_attn.o_proj"),
        mlp_norm=layer.post_attention_layernorm.weight.detach(),
        gate_up=take("mlp.gate_proj", "mlp.up_proj"),
        down=take("mlp.down_proj"),
    )


class Rotary:
    """cos and sin as attention takes them, the first half of sin negated; kept where they are
    the same in every pass."""

    def __init__(self, module: nn.Module) -> None:
        """``module``: transformers', called with something of the type wanted and positions."""
        self._module = module
        kind = getattr(module, "rope_type", None)
        self._kept = isinstance(kind, str) and not any(name in kind for name in ANEW)
        self._cos = self._sin = torch.empty(0)

    def __call__(self, like: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin [rows, T, d] of positions [rows, T]."""
        if not self._kept or like.device.type != "cpu":
            return self._compute(like, positions)
        if (last := int(positions.max())) >= (held := len(self._cos)):
            every = torch.arange(held, (last // ROTARY_STEP + 1) * ROTARY_STEP)
            fresh = [part[0] for part in self._compute(like, every[None])]
            if held:  # what is there stays what it is
                fresh = [torch.cat(p) for p in zip((self._cos, self._sin), fresh, strict=True)]
            self._cos, self._sin = fresh
        return self._cos[positions], self._sin[positions]

    def _compute(self, like: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = self._module(like, positions)
        sin[..., : sin.shape[-1] // 2].neg_()
        return cos, sin
