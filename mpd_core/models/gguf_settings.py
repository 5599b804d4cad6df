"""What a GGUF's settings say, against the configuration that transformers makes of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

SYNONYMS = {
    "attention.layer_norm_epsilon": (
        *("layer_norm_epsilon", "layer_norm_eps", "norm_epsilon", "norm_eps"),
    ),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps", "norm_eps", "layer_norm_epsilon"),
    "attention.key_length": ("head_dim",),
    "attention.value_length": ("head_dim",),
    "attention.sliding_window": ("sliding_window",),
    "attention.scale": ("attention_multiplier",),
    "attention.clamp_kqv": ("clip_qkv",),
    "feed_forward_length": ("intermediate_size", "n_inner", "ffn_hidden_size"),
    "expert_feed_forward_length": ("moe_intermediate_size", "intermediate_size"),
    "expert_shared_feed_forward_length": ("shared_expert_intermediate_size",),
    "use_parallel_residual": ("use_parallel_residual", "parallel_attn"),
    "vocab_size": ("vocab_size",),
    "logit_scale": ("logit_scale",),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
}
"""Settings that transformers does not read, and what must have their values nevertheless."""
DESCRIPTIVE = (
    "tensor_data_layout",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
)
"""Settings that say nothing about what is computed where no other is refused."""
CHECKED = (
    *("rope.dimension_count", "rope.freq_base"),
    *("rope.scaling.type", "rope.scaling.factor", "rope.scale_linear"),
)
"""Settings of the rotary embedding, which is compared as a whole."""
NOTHING: dict[str, object] = {
    "rope.scaling.attn_factor": 1.0,
    "expert_count": 0,
    "expert_used_count": 0,
    "attention.max_alibi_bias": 0.0,
    "attention.causal": True,
}
"""Settings that may be there with a value that changes nothing."""
AT_LEAST_ONE = frozenset({"block_count", "embedding_length"})
SIZES = (
    *sorted(AT_LEAST_ONE),
    *("attention.head_count", "attention.head_count_kv"),
    *("attention.key_length", "attention.value_length"),
    *("feed_forward_length", "expert_count", "expert_feed_forward_length", "vocab_size"),
)
"""Settings that are sizes of tensors, or a count of them."""
EPSILONS = ("attention.layer_norm_epsilon", "attention.layer_norm_rms_epsilon")
OPTIONAL = frozenset({"vocab_size", "rope.dimension_count", "rope.freq_base"})
"""Settings that transformers reads and that may be absent: of the tokens' number it takes what the
vocabulary has, and the rotary embedding is compared as a whole."""


def impossible_sizes(
    fields: Mapping[str, Any], architecture: str, shapes: Sequence[Sequence[int]]
) -> Iterator[str]:
    """Keys of sizes that no model of these tensors has: one of such a size would be made first."""
    widest = max((max(shape, default=0) for shape in shapes), default=0)
    for name in SIZES:
        key = f"{architecture}.{name}"
        most = len(shapes) if name == "block_count" else widest
        value = fields.get(key, 1)
        values = value if isinstance(value, list) else [value]
        fits = [isinstance(one, int) and (name not in AT_LEAST_ONE or one > 0) for one in values]
        if not all(fits) or max(values, default=1) > most:
            yield key


def missing_settings(fields: Mapping[str, Any], architecture: str) -> Iterator[str]:
    """Keys that transformers reads and the file has not: a default would be another model's.

    Without the number of key heads, for one, it leaves a LLaMA's rows of q and k in llama.cpp's
    order.
    """
    told = {key.removeprefix(f"{architecture}.") for key in fields}
    for own in sorted(_taken(architecture) - OPTIONAL - told):
        # Some files have the other of the two, which ``lost_settings`` holds against the model's.
        if own not in EPSILONS or told.isdisjoint(EPSILONS):
            yield f"{architecture}.{own}"


def lost_settings(fields: Mapping[str, Any], architecture: str, config: Any) -> Iterator[str]:
    """Keys of settings that transformers drops, and that its configuration does not say anyway."""
    taken = _taken(architecture)
    for key, value in fields.items():
        own = key.removeprefix(f"{architecture}.")
        if own == key or own in taken.union(DESCRIPTIVE, CHECKED):
            continue
        known = [getattr(config, name, None) for name in SYNONYMS.get(own, ())]
        nothing = own in NOTHING and value == NOTHING[own]
        nothing |= own.endswith("sliding_window") and value in (0, None)
        if not nothing and not any(_same(one, value) for one in known):
            yield key


def _taken(architecture: str) -> set[str]:
    """Settings that transformers puts into its configuration."""
    from transformers.modeling_gguf_pytorch_utils import GGUF_TO_TRANSFORMERS_MAPPING

    tables = GGUF_TO_TRANSFORMERS_MAPPING["config"]
    spellings = (architecture, architecture.replace("-", "_"), architecture.replace("moe", "_moe"))
    return {
        key
        for name in spellings
        for key, value in tables.get(name, {}).items()
        if value not in (None, -1)
    }


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        return math.isclose(one, other, rel_tol=1e-5)
    return bool(one == other)
