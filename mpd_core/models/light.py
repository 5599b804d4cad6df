"""A base's tokenizer, and a converted LLaMA read without transformers' model code.

That code takes 130 MB of a process for good, with what it imports: torch's distributed tensors,
sympy, and accelerate and scipy where they are. Whatever is not plain here is left to it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.configuration_utils import PreTrainedConfig

from mpd_core.errors import PackError
from mpd_core.models.convert import SAMPLE
from mpd_core.models.files import CONFIG, LOCAL, TOKENIZER_FILES, UNREADABLE

LETTERS = ("the", "cat", "isn", "it")
"""In ``SAMPLE``."""
SIZES = (
    *("head_dim", "hidden_size", "intermediate_size", "max_position_embeddings", "vocab_size"),
    *("num_attention_heads", "num_hidden_layers", "num_key_value_heads"),
)
ROLES = ("bos_token", "eos_token", "unk_token", "pad_token")
SWITCHES = ("attention_bias", "mlp_bias", "tie_word_embeddings")
PLAIN = {"hidden_act": "silu", "model_type": "llama"}
IDLE = (
    *("_model_name_or_path", "_name_or_path", "architectures", "dtype", "transformers_version"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id"),
    *("attention_dropout", "initializer_range", "pretraining_tp", "use_cache"),
)
"""Settings that change nothing of what is computed from weights."""
KNOWN = frozenset({*SIZES, *SWITCHES, *PLAIN, *IDLE, "rope_parameters", "rms_norm_eps"})


class LlamaConfig(PreTrainedConfig):  # type: ignore[misc]
    """What a file says; transformers' class of that name imports model code."""

    model_type = "llama"


def read_config(folder: Path) -> LlamaConfig | None:
    """The configuration of a plain LLaMA; None where it says more than that, or less."""
    found = _read(folder / CONFIG)
    if not _is_plain(found):
        return None
    told = found.keys() - {"model_type", "transformers_version"}
    return LlamaConfig(**{name: found[name] for name in sorted(told)})


def _is_plain(found: dict[str, Any]) -> bool:
    rope, sizes = found.get("rope_parameters"), [found.get(name) for name in SIZES]
    return (
        KNOWN.issuperset(found)
        and all(type(size) is int and size > 0 for size in sizes)
        and all(type(found.get(name)) is bool for name in SWITCHES)
        and all(found.get(name) == value for name, value in PLAIN.items())
        and isinstance(rope, dict)
        and rope.keys() == {"rope_theta", "rope_type"}
        and rope["rope_type"] == "default"
        and type(rope["rope_theta"]) in (int, float)
        and type(found.get("rms_norm_eps")) is float
        and found["rms_norm_eps"] >= 0.0  # which NaN is not
        and not found["hidden_size"] % found["num_attention_heads"]
        and not found["num_attention_heads"] % found["num_key_value_heads"]
    )


def read_tokenizer(folder: Path) -> Any:
    """A folder's tokenizer, of any model: as ``AutoTokenizer`` reads it, if that is what its
    tokenizer.json says; else as that says.

    Some classes of transformers make theirs of the file's words and merges alone, by rules of their
    own: GPT-2's, which SmolLM's files name, does not take digits apart first, as those do.

    Raises:
        PackError: of other files a class makes one that does not read plain words.
    """
    from transformers import TokenizersBackend

    named = _read(folder / "tokenizer_config.json")
    # It is its tokenizer.json and nothing more.
    backend = named.get("tokenizer_class") == "TokenizersBackend" and "auto_map" not in named
    if backend and _is_plain(_read(folder / CONFIG)):
        return TokenizersBackend.from_pretrained(folder, **LOCAL)
    from transformers import AutoTokenizer  # imports the model's code, with its configuration

    found = AutoTokenizer.from_pretrained(folder, **LOCAL)
    if not (folder / TOKENIZER_FILES[0]).is_file():
        _check_letters(folder, found)
        return found
    if type(found) is TokenizersBackend:
        return found
    written = TokenizersBackend.from_pretrained(folder, **LOCAL)
    if _reads(found) == _reads(written):
        return found
    own = {role: getattr(found, role) for role in ROLES if getattr(written, role) is None}
    words = written.get_vocab()
    written.add_special_tokens({role: token for role, token in own.items() if token in words})
    return written


def _check_letters(folder: Path, tokenizer: Any) -> None:
    """LLaMA's class makes of GPT-2's words a tokenizer that finds none of them in a text."""
    said = (_reads(tokenizer) or ([], ""))[1].casefold()
    if not all(word in said for word in LETTERS):
        raise PackError(
            f"base: in {folder}, {type(tokenizer).__name__} makes a tokenizer that does not read "
            "plain words of the files that are there: add the model's tokenizer.json."
        )


def _reads(tokenizer: Any) -> tuple[list[int], str] | None:
    """What becomes of a text of many kinds; None if a tokenizer fails on it."""
    try:
        ids = tokenizer(SAMPLE, add_special_tokens=False)["input_ids"]
        return ids, tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    except Exception:  # the library's own, for one where a word that it needs is not there
        return None


def _read(file: Path) -> dict[str, Any]:
    """Nothing where transformers has to say what is wrong."""
    try:
        found = json.loads(file.read_text("utf-8"))
    except UNREADABLE:
        return {}
    return found if isinstance(found, dict) else {}


class LlamaForCausalLM(nn.Module):
    """A LLaMA's weights under transformers' names; ``llama.LlamaBody`` is what computes."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        size = (config.vocab_size, config.hidden_size)
        self.model = _holder(
            "LlamaModel",
            embed_tokens=nn.Embedding(*size, _weight=torch.empty(size)),
            layers=nn.ModuleList(_layer(config) for _ in range(config.num_hidden_layers)),
            norm=_norm(config.hidden_size),
            rotary_emb=LlamaRotaryEmbedding(config),
        )
        output: Any = _undrawn(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            output.weight = self.model.embed_tokens.weight
        self.lm_head: nn.Module = output

    def get_input_embeddings(self) -> nn.Module:
        embeddings: nn.Module = self.model.embed_tokens
        return embeddings

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    @property
    def cached_bytes(self) -> int:
        """Of keys and values of one token in all layers."""
        config = self.config
        heads = config.num_hidden_layers * config.num_key_value_heads
        return int(2 * heads * config.head_dim * self.dtype.itemsize)


def _layer(config: Any) -> Any:
    width, inner, d = config.hidden_size, config.intermediate_size, config.head_dim
    own, shared = config.num_attention_heads * d, config.num_key_value_heads * d
    bias, mlp_bias = config.attention_bias, config.mlp_bias
    return _holder(
        "LlamaDecoderLayer",
        self_attn=_holder(
            "LlamaAttention",
            q_proj=_undrawn(width, own, bias),
            k_proj=_undrawn(width, shared, bias),
            v_proj=_undrawn(width, shared, bias),
            o_proj=_undrawn(own, width, bias),
        ),
        mlp=_holder(
            "LlamaMLP",
            gate_proj=_undrawn(width, inner, mlp_bias),
            up_proj=_undrawn(width, inner, mlp_bias),
            down_proj=_undrawn(inner, width, mlp_bias),
        ),
        input_layernorm=_norm(width),
        post_attention_layernorm=_norm(width),
    )


def _norm(width: int) -> Any:
    return _holder("LlamaRMSNorm", weight=nn.Parameter(torch.empty(width)))


def _holder(kind: str, **parts: Any) -> Any:
    """What has these parts, under the name of transformers' class, and computes nothing."""
    made = type(kind, (nn.Module,), {})()
    for name, part in parts.items():
        setattr(made, name, part)
    return made


class _Undrawn(nn.Linear):
    """With whatever is in its memory: on "meta", drawing numbers imports torch's compiler."""

    def reset_parameters(self) -> None:
        pass


def _undrawn(inputs: int, outputs: int, bias: bool) -> nn.Linear:
    """A linear that waits for its weights."""
    made: nn.Linear = _Undrawn(inputs, outputs, bias)
    made.__class__ = nn.Linear  # what is packed is told by its type
    return made


class LlamaRotaryEmbedding(nn.Module):
    """Of positions as transformers computes it, to the bit."""

    rope_type = "default"

    def __init__(self, config: Any) -> None:
        super().__init__()
        size, base = config.head_dim, config.rope_parameters["rope_theta"]
        steps = torch.arange(0, size, 2, dtype=torch.float, device="cpu") / size
        inverse = 1.0 / (base**steps)
        self.register_buffer("inv_freq", inverse, persistent=False)

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin of positions [rows, T], [rows, T, head_dim] in the type of ``x``."""
        frequencies: Any = self.inv_freq
        angles = position_ids[..., None].float() * frequencies
        both = torch.cat([angles, angles], dim=-1)
        return both.cos().to(x.dtype), both.sin().to(x.dtype)
