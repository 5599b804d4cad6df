"""Any decoder of transformers as the body of a row model: the general path."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from mpd_core.models.attention import as_bias, attention
from mpd_core.models.cache import RowCache
from mpd_core.models.linear import fuse, round_to
from mpd_core.models.lora import LoraStack
from mpd_core.models.targets import linear_shape

ATTENTION = "mpd_rows"
BEYOND = ("softcap", "s_aux", "position_bias")
"""Arguments by which some architectures change attention itself."""


class GeneralBody:
    """Runs the model's own code; its linears are replaced, packed and with adapters.

    On a CPU torch's fused attention is, too: see ``attention``.
    """

    def __init__(
        self,
        model: Any,
        stack: LoraStack,
        *,
        packed: torch.dtype | None,
        layers: range | None = None,
    ) -> None:
        """Take over a causal LM, always the whole of it; it is changed in place."""
        assert layers is None, "only a written-out decoder runs in parts"
        if packed:
            round_to(model, packed)  # embeddings too: the same weights whatever the body
        if model.device.type == "cpu" and model.config._attn_implementation == "sdpa":
            AttentionInterface.register(ATTENTION, _attend)
            model.set_attn_implementation(ATTENTION)
        self._body: nn.Module = model.base_model
        self._products: list[nn.Module] = []
        for name, linear, width in _linears(model):
            parent, _, child = name.rpartition(".")
            ready = stack.wrap(fuse([linear], packed=packed), [(name, width)])
            setattr(model.get_submodule(parent), child, ready)
            self._products.append(ready)
        self.lm_head: nn.Module = model.get_output_embeddings()
        parameters = inspect.signature(self._body.forward).parameters
        self._cache_argument = "cache" if "cache" in parameters else "past_key_values"

    def __call__(self, inputs: Tensor, positions: Tensor, mask: Tensor, cache: RowCache) -> Tensor:
        """Tokens to hidden states after the final norm, [rows, T, D]."""
        arguments = {self._cache_argument: cache, "use_cache": True}
        hidden: Tensor = self._body(
            input_ids=inputs, attention_mask=mask, position_ids=positions, **arguments
        ).last_hidden_state
        return hidden

    def products(self) -> Iterator[nn.Module]:
        """Its linear layers, the output layer among them."""
        return iter(self._products)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers' models call it; mixed values come back as [rows, T, heads, d]."""
    plain = attention_mask.dtype is torch.bool and attention_mask.shape[1] == 1
    if not plain or any(others.get(name) is not None for name in BEYOND):
        mixed, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **others
        )
        return mixed, None
    if scaling is not None:
        query = query * (scaling * query.shape[-1] ** 0.5)
    bias = as_bias(attention_mask, query.dtype)
    return attention(query, key, value, bias).transpose(1, 2), None


def _linears(model: nn.Module) -> list[tuple[str, nn.Module, int]]:
    """Name, module and outputs of each; also of bitsandbytes' 4-bit layers and GPT-2's Conv1D."""
    found = ((name, module, linear_shape(module)) for name, module in model.named_modules())
    return [(name, module, shape[1]) for name, module, shape in found if shape]
