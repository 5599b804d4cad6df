"""What tokens are called where each stands by itself: among the candidates of a step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from mpd_core.prompts.streaming import REPLACEMENT, anchor, decode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PRINTED = (*range(33, 127), *range(161, 173), *range(174, 256))
_HIDDEN = (byte for byte in range(256) if byte not in _PRINTED)
BYTES = {
    **{chr(byte): byte for byte in _PRINTED},
    **{chr(256 + place): byte for place, byte in enumerate(_HIDDEN)},
}
"""The characters that byte-level vocabularies write bytes with (GPT-2, Radford et al., 2019)."""


def name_tokens(tokenizer: PreTrainedTokenizerBase) -> Callable[[int], str]:
    """Each token's text by itself, its leading space included; no two tokens share a name.

    Bytes that are no character are shown as ``<0xE2>``. Where several tokens have one text, as
    ``A`` and the byte ``<0x41>``, each is called as it stands in the vocabulary. Names are kept
    once they have been asked for: candidates come again.
    """
    texts = _texts(tokenizer)
    count = max(tokenizer.get_vocab().values()) + 1
    natural = [texts(i) for i in range(count)]
    shared = Counter(natural)
    odd = [i for i, t in enumerate(natural) if not t or REPLACEMENT in t or shared[t] > 1]
    taken = {t for t in natural if t and REPLACEMENT not in t and shared[t] == 1}
    own: dict[int, str] = {}
    for token_id in odd:
        spelled = _spelled(tokenizer.convert_ids_to_tokens(token_id) or "", natural[token_id])
        free = spelled and spelled not in taken
        own[token_id] = spelled if free else f"{spelled}<token {token_id}>"
        taken.add(own[token_id])

    @cache
    def name(token_id: int) -> str:
        # Many models have more logits than their tokenizer has tokens.
        return own.get(token_id) or texts(token_id) or f"<token {token_id}>"

    return name


def _texts(tokenizer: PreTrainedTokenizerBase) -> Callable[[int], str]:
    first = anchor(tokenizer)
    before = [] if first is None else [first]
    known = len(decode(tokenizer, before, special=True))
    # The library's own decoder, where there is one: it is asked for the whole vocabulary.
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return lambda token_id: decode(tokenizer, [*before, token_id], special=True)[known:]
    read: Callable[..., str] = backend.decode
    return lambda token_id: read([*before, token_id], skip_special_tokens=False)[known:]


def _spelled(content: str, text: str) -> str:
    """A token as its vocabulary writes it; in a byte-level one, its bytes."""
    if content and all(char in BYTES for char in content):
        raw = bytes(BYTES[char] for char in content)
        if raw.decode("utf-8", "replace") == text and REPLACEMENT in text:
            escaped = raw.decode("utf-8", "surrogateescape")
            return "".join(_shown(char) for char in escaped)
    return content


def _shown(char: str) -> str:
    byte = ord(char) - 0xDC00  # where Python keeps bytes that are no text
    return f"<0x{byte:02X}>" if 0x80 <= byte <= 0xFF else char
