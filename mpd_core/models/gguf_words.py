"""What a GGUF says of text: how it is split before tokens are looked up, and which ones end it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

KIND, SPLIT, PREFIX = (f"tokenizer.ggml.{name}" for name in ("model", "pre", "add_space_prefix"))
BYTE_LEVEL, SENTENCES = "gpt2", "llama"
"""What ``tokenizer.ggml.model`` calls byte-level BPE, and SentencePiece's."""
AS_GPT2 = frozenset(
    {
        *("default", "gpt-2", "gpt2", "phi-2", "mpt", "olmo", "jais", "trillion", "gigachat"),
        *("mellum", "modern-bert", "roberta-bpe", "jina-es", "jina-de", "jina-v2-es"),
        "jina-v2-de",
    }
)
"""Names in ``tokenizer.ggml.pre`` of how GPT-2 splits text into words, which transformers takes
where it knows none."""
DIGITS_FIRST = frozenset({"smollm"})
"""Those where every digit is a word of its own, before GPT-2's way splits what lies between."""
ENDS = ("eos", "eot", "eom")
"""Tokens that end a sequence, a turn and a message."""


def end_tokens(fields: Mapping[str, Any]) -> list[int]:
    """Ids of all tokens that end a reply, that of a sequence first."""
    named = (fields.get(f"tokenizer.ggml.{kind}_token_id") for kind in ENDS)
    return list(dict.fromkeys(int(token_id) for token_id in named if token_id is not None))


def split_digits(fields: Mapping[str, Any], tokenizer: Any) -> None:
    """Let a tokenizer take digits out first where the file wants it, which transformers drops.

    Else blank lines before a digit, as before the first item of a list, would be other tokens.
    """
    if fields.get(KIND) != BYTE_LEVEL or fields.get(SPLIT) not in DIGITS_FIRST:
        return
    from tokenizers import pre_tokenizers as steps

    words = [steps.Digits(individual_digits=True), steps.ByteLevel(add_prefix_space=False)]
    tokenizer.backend_tokenizer.pre_tokenizer = steps.Sequence(words)


def lost_words(fields: Mapping[str, Any], tokenizer: Any) -> Iterator[str]:
    """Keys of settings that the tokenizer does not follow, which transformers made of the file."""
    kind = fields.get(KIND)
    if kind == BYTE_LEVEL and fields.get(SPLIT, "default") not in AS_GPT2 | DIGITS_FIRST | _known():
        yield SPLIT
    if kind == SENTENCES and PREFIX in fields:
        first = tokenizer.tokenize("a", add_special_tokens=False)[0]
        if first.startswith("▁") != fields[PREFIX]:
            yield PREFIX


def _known() -> set[str]:
    """Ways of splitting text that transformers knows by their names in a GGUF."""
    try:
        from transformers.integrations.gguf import gguf_tokenizer_mapping as mapping
    except ImportError:  # versions that take GPT-2's for all
        return set()
    return set(mapping.GGUF_PRE_TOKENIZER_SPLITS)
