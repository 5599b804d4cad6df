"""What a GGUF says of text: how it is split before tokens are looked up, and which ones end it."""

from __future__ import annotations

import json
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
WORDS_FIRST = frozenset(
    {
        *("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"),
        *("jina-v5-nano", "tekken"),
    }
)
"""Those where a word that is in the vocabulary is that token, whatever its merges would make."""
TOKENS, TYPES = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type"
NEEDED = {
    BYTE_LEVEL: ("tokenizer.ggml.merges",),
    SENTENCES: ("tokenizer.ggml.scores",),
    "gemma4": (),
}
"""Kinds of tokenizers that are read, and what each needs beside its tokens."""
CONTROL, USER = 3, 4
"""What llama.cpp calls types of tokens that are read whole wherever they stand."""
ROLES = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}
ENDS = ("eos", "eot", "eom")
"""Tokens that end a sequence, a turn and a message."""


def roles(fields: Mapping[str, Any]) -> dict[str, int | None]:
    """Ids by transformers' names of roles; None where the file gives a role to no token."""
    named = {kind: fields.get(f"tokenizer.ggml.{own}_token_id") for kind, own in ROLES.items()}
    return {kind: None if token_id is None else int(token_id) for kind, token_id in named.items()}


def end_tokens(fields: Mapping[str, Any]) -> list[int]:
    """Ids of all tokens that end a reply, that of a sequence first."""
    named = (fields.get(f"tokenizer.ggml.{kind}_token_id") for kind in ENDS)
    return list(dict.fromkeys(int(token_id) for token_id in named if token_id is not None))


def unread_words(fields: Mapping[str, Any]) -> str | None:
    """Why a file's tokenizer is not read; None where it is.

    Of T5's kind transformers drops the normaliser, so that other tokens come out of a text.
    """
    kind = fields.get(KIND)
    if not kind:
        return f"names no kind of tokenizer ({KIND})"
    if kind not in NEEDED:
        return f"has a tokenizer of the kind {kind!r:.60} ({KIND}), which is not read here"
    lacking = [key for key in (TOKENS, *NEEDED[kind]) if key not in fields]
    return f"lacks {lacking[0]}" if lacking else None


def complete_words(fields: Mapping[str, Any], tokenizer: Any) -> None:
    """Let a tokenizer do what the file says, and llama.cpp does, and transformers leaves out."""
    if fields.get(KIND) != BYTE_LEVEL:
        return
    _keep_whole(fields, tokenizer)
    backend = tokenizer.backend_tokenizer
    if fields.get(SPLIT) in WORDS_FIRST:
        backend.model.ignore_merges = True
    if fields.get(SPLIT) in DIGITS_FIRST:
        from tokenizers import pre_tokenizers as steps

        # Else blank lines before a digit, as before a list's first item, would be other tokens.
        words = [steps.Digits(individual_digits=True), steps.ByteLevel(add_prefix_space=False)]
        backend.pre_tokenizer = steps.Sequence(words)


def _keep_whole(fields: Mapping[str, Any], tokenizer: Any) -> None:
    """Markers and added tokens with other characters than the byte alphabet's, as they are.

    transformers spells them in bytes (DeepSeek's bars, NeoX's runs of spaces), so that no text
    becomes one of them.
    """
    from tokenizers import AddedToken, Tokenizer

    held = _added(fields)
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary: dict[str, int] = state["model"]["vocab"]
    spelled = {i: token for token, i in vocabulary.items() if i in held and token != held[i][0]}
    for token_id, other in spelled.items():
        del vocabulary[other]
        vocabulary[held[token_id][0]] = token_id
    if spelled:
        tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))
        own = (held[i] for i in sorted(spelled))
        tokenizer.add_tokens([AddedToken(t, normalized=False, special=s) for t, s in own])


def _added(fields: Mapping[str, Any]) -> dict[int, tuple[str, bool]]:
    """By id, the tokens that are read whole wherever they stand, and whether they are markers."""
    pairs = zip(fields.get(TOKENS, ()), fields.get(TYPES, ()), strict=False)
    return {i: (t, kind == CONTROL) for i, (t, kind) in enumerate(pairs) if kind in (CONTROL, USER)}


def split_tokens(fields: Mapping[str, Any], tokenizer: Any) -> Iterator[str]:
    """Tokens of the file that the tokenizer has by no name of their own, or does not read whole."""
    tokens = fields.get(TOKENS, ())
    for token_id, token in enumerate(tokens):
        if tokenizer.convert_ids_to_tokens(token_id) is None:
            yield token
    for token_id, (token, _) in _added(fields).items():
        if tokenizer(token, add_special_tokens=False)["input_ids"] != [token_id]:
            yield token


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
