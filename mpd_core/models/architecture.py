"""What a base's configuration says, whatever its architecture calls it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mpd_core.errors import PackError

WINDOW_STEP = 64
"""Rows see multiples of so many positions, so that shapes repeat from token to token."""
_LOCAL = ("window", "chunk", "topk")
"""Parts of the names of settings that say how far back a token looks, or at how many others."""


def text_config(model: Any) -> Any:
    """The part of a model's configuration that is about text: all of it, except in models that
    also see or hear."""
    return model.config.get_text_config(decoder=True)


def body_of(model: Any) -> Any:
    """What a causal LM computes its states with: everything but the output layer."""
    return model.base_model if model.base_model is not model else model.model


def finish(config: Any) -> Callable[[Tensor], Tensor]:
    """What some architectures do to their logits after the output layer: scale or cap them."""
    scale = _number(config, "logit_scale") or 1.0
    scale /= _number(config, "logits_scaling") or 1.0
    cap = _number(config, "final_logit_softcapping")

    def apply(logits: Tensor) -> Tensor:
        logits = logits if scale == 1 else logits * scale
        return logits if cap is None else torch.tanh(logits / cap) * cap

    return apply


def row_length(config: Any, context: int) -> int:
    """Tokens that a row may hold: the pack's context, as far as the base has positions.

    Raises:
        PackError: a longer text's rotary embedding would change for the tokens already read, the
            base scales attention by positions that it counts itself, or it has no positions.
    """
    # Llama 4 scales queries by their positions, which it takes from the cache's length: ours has
    # rows of many. Up to the first step of that scale all are one.
    first = _setting(config, "floor_scale") if _setting(config, "attn_temperature_tuning") else None
    if first and context >= first:
        raise PackError(
            f"decode.context: {context} tokens, but from {first} on the base scales its attention "
            f"by positions of its own (attn_temperature_tuning in config.json): set it to at most "
            f"{first - 1}."
        )
    limit = _setting(config, "max_position_embeddings") or _setting(config, "max_seq_len") or 0
    if limit <= 0:  # XLNet's -1: as many as one likes
        limit = sys.maxsize
    for rope in _ropes(config):
        original = rope.get("original_max_position_embeddings")
        if rope["rope_type"] == "longrope" and original and original < context:
            raise PackError(
                f"decode.context: {context} tokens, but from {original} on the base's rope "
                f"(longrope in config.json) turns all earlier tokens anew: set it to at most "
                f"{original}."
            )
        if rope["rope_type"] == "dynamic":
            limit -= 1  # an idle row's position, just beyond the last, must not stretch it
    if config.model_type == "mpt":
        limit -= limit % WINDOW_STEP  # its bias covers so many positions and no more
    if limit <= 0:
        raise PackError("base: its config.json leaves no position for a token; use another base.")
    return min(context, limit)


def local_sizes(config: Any) -> list[int]:
    """Settings that could make a token look at fewer than all tokens before it."""
    names = (name for name in config.to_dict() if any(part in name for part in _LOCAL))
    return [size for size in (_setting(config, n) for n in names) if type(size) is int]


def _setting(config: Any, name: str) -> Any:
    """What a configuration says for all layers; None where it says nothing, or not of all."""
    try:
        return getattr(config, name, None)
    except RuntimeError:  # transformers', of what may differ from layer to layer
        return None


def _number(config: Any, name: str) -> float | None:
    """The same where it is a number: what it is otherwise, the probe sees by what is computed."""
    found = _setting(config, name)
    return found if isinstance(found, (int, float)) else None


def _ropes(config: Any) -> list[dict[str, Any]]:
    """Settings of the rotary embedding, of each layer type where these differ."""
    found = _setting(config, "rope_parameters") or {}
    tables = [found, *(table for table in found.values() if isinstance(table, dict))]
    return [table for table in tables if isinstance(table.get("rope_type"), str)]


def cache_arguments(model: Any, cache: Any | None) -> dict[str, Any]:
    """The arguments that make a model of transformers use a cache; their name has changed."""
    named = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    return {"use_cache": False} if cache is None else {"use_cache": True, named: cache}


def window_of(positions: Tensor) -> int:
    """Positions that attention looks at, in whole steps."""
    return (int(positions.max()) // WINDOW_STEP + 1) * WINDOW_STEP
