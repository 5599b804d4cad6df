"""What a GGUF holds, against what transformers makes of it: nothing may be lost on the way.

transformers takes from the file the settings and tensors that it knows, and leaves the rest with a
line in a log that nobody sees: scaled rotary embeddings, biases, the other files of a split model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mpd_core.errors import ModelSourceError, others_as
from mpd_core.models.gguf_blocks import is_decoded, kept_blocks
from mpd_core.models.gguf_settings import impossible_sizes, lost_settings, missing_settings
from mpd_core.models.gguf_words import (
    complete_words,
    end_tokens,
    lost_words,
    roles,
    split_tokens,
    unread_words,
)

if TYPE_CHECKING:
    from gguf import GGUFReader

FREQUENCIES = "rope_freqs.weight"
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
LLAMA3_FACTORS = (8.0, 32.0)
"""Llama 3.1's and 3.2's: their GGUFs hold the frequencies' divisors and not what made them."""


class GGUFContents:
    """One file's settings and tensors, read by llama.cpp's own package."""

    def __init__(self, path: Path) -> None:
        """Open a file.

        Raises:
            ModelSourceError: a file that is cut or none, for another machine's order of bytes, one
                of several of a split model, of a tokenizer or a type that is not read, of sizes
                that its tensors do not have, or with a role for a token that there is not.
        """
        from gguf import GGUFEndian

        self._name = path.name
        reader = _reader(path)
        if reader.endianess != GGUFEndian.LITTLE:
            raise self._refusal("is big-endian, which transformers does not read")
        self._fields = {key: field.contents() for key, field in reader.fields.items()}
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        self._count = len(self._fields.get("tokenizer.ggml.tokens", ()))
        self._architecture = str(self._fields.get("general.architecture"))
        self._prefix = f"{self._architecture}."
        if int(self._fields.get("split.count", 0)) > 1:
            raise ModelSourceError(
                f"{path.name} is one of {self._fields['split.count']} files of a split model "
                "(split.count); join them with 'llama-gguf-split --merge', or name another source."
            )
        self._check_read()
        self.roles = roles(self._fields)
        """Ids of the tokens that have a part to play, by transformers' names; None without one."""
        self.ends = end_tokens(self._fields)
        """Ids of all tokens that end a reply."""
        for kind, token_id in self.roles.items():
            if token_id is not None and not 0 <= token_id < self._count:
                raise self._refusal(f"has {self._count} tokens, and {token_id} as its {kind} token")

    def blocks(self, model: Any) -> dict[str, Tensor]:
        """What ``gguf_blocks.kept_blocks`` keeps of a model that was made of the file."""
        return kept_blocks(self._tensors, _mapped(model), model.state_dict())

    def check(self, model: Any, tokenizer: Any, info: Mapping[str, Any]) -> None:
        """Hold what transformers made against the file; may complete what it can.

        Args:
            model: whose configuration gets the rotary scaling that the file has.
            tokenizer: of the same file; is completed by what the file says of words.
            info: transformers' loading info.

        Raises:
            ModelSourceError: names the first setting or tensor that was lost, or was never there.
        """
        for key in missing_settings(self._fields, self._architecture):
            raise self._refusal(f"does not set {key}, and transformers takes a value of its own")
        for key in sorted(info["missing_keys"]):
            raise self._refusal(f"lacks the tensor '{key}' of {type(model).__name__}")
        for key, found, wanted in sorted(info["mismatched_keys"]):
            raise self._refusal(f"has '{key}' in the shape {tuple(found)}, not {tuple(wanted)}")
        complete_words(self._fields, tokenizer)
        for key in lost_words(self._fields, tokenizer):
            raise self._refusal(f"sets {key} = {self._fields[key]}, which transformers drops")
        for token in split_tokens(self._fields, tokenizer):
            raise self._refusal(f"has the token {token!r:.60}, which transformers reads otherwise")
        self._carry_rope(model)
        if self._architecture == "gemma2":  # its attention's scale no file has: as in llama.cpp
            config = model.config
            wide = config.hidden_size // config.num_attention_heads
            large = config.num_hidden_layers == 46
            config.query_pre_attn_scalar = wide if large else config.head_dim
        for key in lost_settings(self._fields, self._architecture, model.config):
            raise self._refusal(f"sets {key} = {self._fields[key]}, which transformers drops")
        for name in self._lost_tensors(model):
            raise self._refusal(f"holds {name}, which transformers drops")
        self._check_rope(model)

    def _check_read(self) -> None:
        """What transformers would be asked for in vain, or at the cost of all memory."""
        if fault := unread_words(self._fields):
            raise self._refusal(fault)
        shapes = [[int(size) for size in tensor.shape] for tensor in self._tensors.values()]
        for key in impossible_sizes(self._fields, self._architecture, shapes):
            value = self._fields[key]
            raise self._refusal(f"sets {key} = {value!r:.60}, which its tensors do not have")
        for name, tensor in self._tensors.items():
            if not is_decoded(tensor.tensor_type):
                raise self._refusal(
                    f"holds {name} as {tensor.tensor_type.name}, which no reader here decodes"
                )

    def _refusal(self, fault: str) -> ModelSourceError:
        return ModelSourceError(f"{self._name} {fault}; use the model's safetensors as the source.")

    def _setting(self, key: str, default: Any = None) -> Any:
        return self._fields.get(self._prefix + key, default)

    def _lost_tensors(self, model: Any) -> Iterator[str]:
        kept = {t.data_ptr(): t.numel() for t in model.state_dict().values()}  # ties count once
        names = set(self._tensors)
        if (getattr(model.config, "rope_parameters", None) or {}).get("rope_type") == "llama3":
            names.discard(FREQUENCIES)
        one, other = (self._tensors.get(f"{own}.weight") for own in ("output", "token_embd"))
        same = one and other and np.array_equal(one.data, other.data)
        if model.config.tie_word_embeddings and same:
            names.discard("output.weight")
        held = sum(int(np.prod(self._tensors[name].shape)) for name in names)
        if held == sum(kept.values()):
            return
        yield min(names.difference(_mapped(model)), default="more than the model has")

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
        factor = self._setting("rope.scaling.factor", self._setting("rope.scale_linear", 1.0))
        return float(factor) or 1.0  # to llama.cpp 0 is none

    def _check_rope(self, model: Any) -> None:
        told = any(key.startswith(f"{self._prefix}rope.") for key in self._fields)
        rotary = _rotary(model)
        if (rotary is None and told) or (rotary is not None and not self._agrees(model)):
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


def _reader(path: Path) -> GGUFReader:
    from gguf import GGUFReader

    no_whole = f"{path.name} could not be converted: it is no whole GGUF"
    with others_as(ModelSourceError, lambda why: f"{no_whole} ({why}); obtain it again."):
        return GGUFReader(path)


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
