"""A base's tokenizer; and a converted LLaMA's configuration, without transformers' model code.

Whatever is not plain here is left to transformers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers.configuration_utils import PreTrainedConfig

from mpd_core.errors import PackError
from mpd_core.models.convert import SAMPLE
from mpd_core.models.files import CONFIG, LOCAL, TOKENIZER_FILES, UNREADABLE

LETTERS = ("the", "cat", "isn", "it")
"""In ``SAMPLE``."""
SIZES = (
    "head_dim",
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "vocab_size",
)
ROLES = ("bos_token", "eos_token", "unk_token", "pad_token")
SWITCHES = ("attention_bias", "mlp_bias", "tie_word_embeddings")
PLAIN = {"hidden_act": "silu", "model_type": "llama"}
IDLE = frozenset(
    {
        "_model_name_or_path",
        "_name_or_path",
        "architectures",
        "attention_dropout",
        "bos_token_id",
        "dtype",
        "eos_token_id",
        "initializer_range",
        "pad_token_id",
        "pretraining_tp",
        "transformers_version",
        "unk_token_id",
        "use_cache",
    }
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
