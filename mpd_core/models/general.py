"""Any decoder of transformers as the body of a row model: the general path.

The model's own code runs, and makes the masks of its own layer types: windows, chunks, full
attention. It asks a mask function of transformers, by positions, where a token may look; here the
question is put for each row's own positions, which its code knows nothing of.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from mpd_core.errors import PackError
from mpd_core.models.architecture import body_of
from mpd_core.models.cache import RowCache
from mpd_core.models.linear import fuse
from mpd_core.models.lora import LoraStack
from mpd_core.models.operators import as_bias, attention
from mpd_core.models.targets import linear_shape

ATTENTION = "mpd_rows"
"""For architectures that leave attention to an interface: ours, with boolean masks."""
OWN_ATTENTION = "mpd_rows_eager"
"""For those that transformers itself runs in their own code only, with masks that are added."""
CLOSED = {"bloom": OWN_ATTENTION, "mpt": OWN_ATTENTION, "falcon": "sdpa"}
"""Architectures with attention code of an older kind that is known to take masks, and the name to
ask for them by. Falcon looks at the name itself, and counts its biases twice unless it is this."""
BEYOND = ("softcap", "s_aux", "position_bias")
"""Arguments by which some architectures change attention itself."""
_POSITIONS: ContextVar[Tensor | None] = ContextVar("positions", default=None)
"""Of the tokens of the present pass over rows, [rows, T]."""


class GeneralBody:
    """Runs the model's own code; its linears are replaced, packed and with adapters."""

    def __init__(self, model: Any, stack: LoraStack, *, packed: torch.dtype | None) -> None:
        """Take over a causal LM, always the whole of it; it is changed in place.

        Raises:
            PackError: attention that cannot be given rows of different texts.
        """
        _use_rows(model)
        self._body: nn.Module = body_of(model)
        self._products: list[nn.Module] = []
        for name, module in list(model.named_modules()):
            # Also of bitsandbytes' 4-bit layers and GPT-2's Conv1D.
            if shape := linear_shape(module):
                parent, _, child = name.rpartition(".")
                ready = stack.wrap(fuse([module], packed=packed), [(name, shape[1])])
                setattr(model.get_submodule(parent), child, ready)
                self._products.append(ready)
        self.lm_head: nn.Module = model.get_output_embeddings()
        parameters = inspect.signature(self._body.forward).parameters
        self._cache_argument = "cache" if "cache" in parameters else "past_key_values"
        self._takes_positions = "position_ids" in parameters  # not where distances are biases

    def __call__(self, inputs: Tensor, positions: Tensor, mask: Tensor, cache: RowCache) -> Tensor:
        """Tokens to hidden states after the final norm, [rows, T, D].

        The mask, [rows, 1, T, window], is not used: each layer type has its own.
        """
        arguments = {self._cache_argument: cache, "use_cache": True}
        if self._takes_positions:
            arguments["position_ids"] = positions
        everywhere = positions.new_ones(len(inputs), mask.shape[-1])
        token = _POSITIONS.set(positions)
        try:
            hidden: Tensor = self._body(
                input_ids=inputs, attention_mask=everywhere, **arguments
            ).last_hidden_state
        finally:
            _POSITIONS.reset(token)
        return hidden

    def products(self) -> Iterator[nn.Module]:
        """Its linear layers, the output layer among them."""
        return iter(self._products)


def _use_rows(model: Any) -> None:
    """Have a model ask for the masks of rows, and take them where it can through our attention."""
    AttentionMaskInterface.register(ATTENTION, _mask)
    AttentionMaskInterface.register(
        OWN_ATTENTION, lambda *, dtype, **arguments: _added(_mask(**arguments), dtype)
    )
    AttentionInterface.register(ATTENTION, _attend)
    AttentionInterface.register(OWN_ATTENTION, _attend_as_written)
    if model._can_set_attn_implementation():
        fused = model.config._attn_implementation == "sdpa"
        model.set_attn_implementation(ATTENTION if fused else OWN_ATTENTION)
    elif model.config.model_type in CLOSED:
        AttentionMaskInterface.register("sdpa", _either_mask)
        model.config._attn_implementation = CLOSED[model.config.model_type]
    else:
        raise PackError(
            f"base: {type(model).__name__} computes attention in code of its own, which cannot be "
            "given rows of different texts; use a base of another architecture."
        )


def _mask(
    *,
    kv_length: int,
    mask_function: Callable[..., Tensor],
    use_vmap: bool = False,
    device: torch.device,
    **_: Any,
) -> Tensor:
    """Where the tokens of the present pass may look, [rows, 1, T, window].

    Called by transformers for each of a model's layer types, with what it knows: ``mask_function``
    takes places in the batch, heads, positions of queries and positions of keys.
    """
    positions = _POSITIONS.get()
    assert positions is not None, "only a row model asks for these"
    rows, length = positions.shape
    row, head = torch.arange(rows, device=device), torch.zeros(1, dtype=torch.long, device=device)
    seen = torch.arange(kv_length, device=device)
    if not use_vmap:  # by position alone: broadcasts
        places = (row[:, None, None, None], head[:, None, None], positions[:, None, :, None], seen)
        return mask_function(*places).expand(rows, 1, length, kv_length)
    for over in ((3,), (2,), (1,), (0, 2)):
        mapped = tuple(0 if k in over else None for k in range(4))
        mask_function = torch.vmap(mask_function, in_dims=mapped)
    return mask_function(row, head, positions, seen)


def _either_mask(**arguments: Any) -> Tensor | None:
    """Ours during a pass over rows, transformers' own at any other time."""
    mask: Tensor | None = (sdpa_mask if _POSITIONS.get() is None else _mask)(**arguments)
    return mask


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask as attention adds it: 0, or the least number there is."""
    if mask.dtype is not torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **others: Any,
) -> tuple[Tensor, Any]:
    """Attention as transformers' models call it; mixed values come back as [rows, T, heads, d]."""
    if attention_mask is None:  # then the architecture makes none for rows
        raise ValueError("attention without a mask")
    plain = attention_mask.dtype is torch.bool and attention_mask.shape[1] == 1
    if not plain or any(others.get(name) is not None for name in BEYOND):
        bias = _added(attention_mask, query.dtype)
        return _attend_as_written(module, query, key, value, bias, scaling=scaling, **others)
    if scaling is not None:
        query = query * (scaling * query.shape[-1] ** 0.5)
    bias = as_bias(attention_mask, query.dtype)
    return attention(query, key, value, bias).transpose(1, 2).contiguous(), None


def _attend_as_written(module: nn.Module, *arguments: Any, **others: Any) -> tuple[Tensor, Any]:
    """Attention as the architecture's own file has it; sinks, caps and biases are in there."""
    written = sys.modules[type(module).__module__].eager_attention_forward
    mixed: tuple[Tensor, Any] = written(module, *arguments, **others)
    return mixed
