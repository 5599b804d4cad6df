"""What a GGUF holds, against what transformers makes of it: nothing may be lost on the way.

transformers takes from the file the settings and tensors that it knows, and leaves the rest with a
line in a log that nobody sees: scaled rotary embeddings, biases, the other files of a split model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mpd_core.errors import ModelSourceError
from mpd_core.models.gguf_blocks import kept_blocks
from mpd_core.models.gguf_words import end_tokens, lost_words, split_digits

FREQUENCIES = "rope_freqs.weight"
SYNONYMS = {
    "attention.layer_norm_epsilon": ("layer_norm_epsilon", "layer_norm_eps", "norm_epsilon"),
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
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scale_linear",
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
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
LLAMA3_FACTORS = (8.0, 32.0)
"""Llama 3.1's and 3.2's: their GGUFs hold the frequencies' divisors and not what made them."""


class GGUFContents:
    """One file's settings and tensors, read by llama.cpp's own package."""

    def __init__(self, path: Path) -> None:
        """Open a file.

        Raises:
            ModelSourceError: one of several files of a split model.
        """
        from gguf import GGUFReader

        self._name = path.name
        reader = GGUFReader(path)
        self._fields = {key: field.contents() for key, field in reader.fields.items()}
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        self._prefix = f"{self._fields.get('general.architecture')}."
        if int(self._fields.get("split.count", 0)) > 1:
            raise ModelSourceError(
                f"{path.name} is one of {self._fields['split.count']} files of a split model "
                "(split.count); join them with 'llama-gguf-split --merge', or name another source."
            )

    @property
    def ends(self) -> list[int]:
        """Ids of all tokens that end a reply."""
        return end_tokens(self._fields)

    def blocks(self, model: Any) -> dict[str, Tensor]:
        """What ``gguf_blocks.kept_blocks`` keeps of a model that was made of the file."""
        return kept_blocks(self._tensors, _mapped(model), model.state_dict())

    def check(self, model: Any, tokenizer: Any, info: Mapping[str, Any]) -> None:
        """Hold what transformers made against the file; may complete what it can.

        Args:
            model: whose configuration gets the rotary scaling that the file has.
            tokenizer: of the same file; splits digits afterwards where that is the file's way.
            info: transformers' loading info.

        Raises:
            ModelSourceError: names the first setting or tensor that was lost, or was never there.
        """
        for key in sorted(info["missing_keys"]):
            raise self._refusal(f"lacks the tensor '{key}' of {type(model).__name__}")
        for key, found, wanted in sorted(info["mismatched_keys"]):
            raise self._refusal(f"has '{key}' in the shape {tuple(found)}, not {tuple(wanted)}")
        split_digits(self._fields, tokenizer)
        for key in lost_words(self._fields, tokenizer):
            raise self._refusal(f"sets {key} = {self._fields[key]}, which transformers drops")
        self._carry_rope(model)
        for key in self._lost_settings(model.config):
            raise self._refusal(f"sets {key} = {self._fields[key]}, which transformers drops")
        for name in self._lost_tensors(model):
            raise self._refusal(f"holds {name}, which transformers drops")
        self._check_rope(model)

    def _refusal(self, fault: str) -> ModelSourceError:
        return ModelSourceError(f"{self._name} {fault}; use the model's safetensors as the source.")

    def _setting(self, key: str, default: Any = None) -> Any:
        return self._fields.get(self._prefix + key, default)

    def _lost_settings(self, config: Any) -> Iterator[str]:
        taken = _taken(self._prefix.rstrip("."))
        for key, value in self._fields.items():
            own = key.removeprefix(self._prefix)
            if own == key or own in taken.union(DESCRIPTIVE, CHECKED):
                continue
            known = [getattr(config, name, None) for name in SYNONYMS.get(own, ())]
            if own in NOTHING and value == NOTHING[own]:
                continue
            if own.endswith("sliding_window") and value in (0, None):
                continue
            if not any(_same(one, value) for one in known):
                yield key

    def _lost_tensors(self, model: Any) -> Iterator[str]:
        kept = {t.data_ptr(): t.numel() for t in model.state_dict().values()}  # ties count once
        names = set(self._tensors)
        if self._scaled_by_frequencies(model.config):
            names.discard(FREQUENCIES)
        if model.config.tie_word_embeddings and self._same_tensors("output", "token_embd"):
            names.discard("output.weight")
        held = sum(int(np.prod(self._tensors[name].shape)) for name in names)
        if held == sum(kept.values()):
            return
        yield next(
            (name for name in sorted(names.difference(_mapped(model)))), "more than the model has"
        )

    def _same_tensors(self, one: str, other: str) -> bool:
        pair = [self._tensors.get(f"{name}.weight") for name in (one, other)]
        return None not in pair and np.array_equal(pair[0].data, pair[1].data)  # type: ignore[union-attr]

    def _scaled_by_frequencies(self, config: Any) -> bool:
        return (getattr(config, "rope_parameters", None) or {}).get("rope_type") == "llama3"

    def _carry_rope(self, model: Any) -> None:
        """Linear scaling, and Llama 3's, go into the configuration."""
        rope = getattr(model.config, "rope_parameters", None)
        rotary = _rotary(model)
        if rotary is None or not rope or rope.get("rope_type", "default") != "default":
            return
        if self._setting("rope.scaling.type", "linear") == "linear" and self._factor() != 1:
            linear = {**rope, "rope_type": "linear", "factor": self._factor()}
            model.config.rope_parameters = linear
        if FREQUENCIES in self._tensors:
            for known in LLAMA3_FACTORS:
                scaled = {**rope, **LLAMA3, "rope_type": "llama3", "factor": known}
                model.config.rope_parameters = scaled
                if self._agrees(model):
                    return
            model.config.rope_parameters = rope

    def _factor(self) -> float:
        return float(self._setting("rope.scaling.factor", self._setting("rope.scale_linear", 1.0)))

    def _check_rope(self, model: Any) -> None:
        if not any(key.startswith(f"{self._prefix}rope.") for key in self._fields):
            return
        if _rotary(model) is None or not self._agrees(model):
            raise self._refusal("has a rotary embedding (rope.*) that transformers reads otherwise")

    def _agrees(self, model: Any) -> bool:
        """Whether the model, made anew from its configuration, turns as the file says."""
        rotary = type(_rotary(model))(config=model.config)
        found: Tensor = rotary.inv_freq
        width = int(self._setting("rope.dimension_count", 2 * len(found)))
        base = float(self._setting("rope.freq_base", 10000.0))
        wanted = base ** -(torch.arange(0, width, 2, dtype=torch.float64) / width)
        kind = self._setting("rope.scaling.type", "linear")
        if kind == "linear":
            wanted = wanted / self._factor()
        elif kind != "none":
            return False
        if FREQUENCIES in self._tensors:
            divisors = torch.from_numpy(np.array(self._tensors[FREQUENCIES].data, dtype=np.float64))
            if divisors.shape != wanted.shape:
                return False
            wanted = wanted / divisors
        same = found.shape == wanted.shape and torch.allclose(found.double(), wanted, rtol=1e-4)
        return same and float(rotary.attention_scaling) == 1.0


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


def _mapped(model: Any) -> dict[str, str]:
    """The model's tensors by their names in a GGUF, as far as transformers tells."""
    from transformers import modeling_gguf_pytorch_utils as reader

    try:
        processor = reader.TensorProcessor(config={})
        return dict(reader.get_gguf_hf_weights_map(model, processor))
    except Exception:  # it helps to name what was found by counting, and to find blocks
        return {}


def _rotary(model: Any) -> Any:
    """Its rotary embedding, where one serves all layers."""
    found = [m for m in model.modules() if isinstance(getattr(m, "inv_freq", None), Tensor)]
    return found[0] if len(found) == 1 else None


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        return math.isclose(one, other, rel_tol=1e-5)
    return bool(one == other)
