"""Token ids to text, one token at a time; and what tokens are called, each by itself."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING, Any

from mpd_core.errors import PackError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
"""A token that stands for one byte, where the tokenizer falls back to bytes."""
ANCHORS = ("a", "▁a", "Ġa", "the", "▁the", "0", "A")
LOOKED_AT = 1000
JOINING = ("Fuse", "ByteLevel")
"""Stages of decoders after which a text's tokens are one."""
_PRINTED = (*range(33, 127), *range(161, 173), *range(174, 256))
_HIDDEN = (byte for byte in range(256) if byte not in _PRINTED)
BYTES = {
    **{chr(byte): byte for byte in _PRINTED},
    **{chr(256 + place): byte for place, byte in enumerate(_HIDDEN)},
}
"""The characters that byte-level vocabularies write bytes with (GPT-2, Radford et al., 2019)."""


class StreamDecoder:
    """Turns token ids into pieces of text, one a token, that join to exactly the decoded whole.

    A piece that ends inside a UTF-8 character is held until the character is complete. Where
    characters are spelled in byte tokens, all of them in a row are read together or not at all, so
    they are held until another token follows. Only a short window is decoded at each step, so a
    long reply costs no more than a short one.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, end_of_turn: Collection[int] = ()
    ) -> None:
        """Start a reply of the tokenizer's model.

        ``end_of_turn`` are no part of the text, whether the tokenizer says so or not.
        """
        self._tokenizer = tokenizer
        self._end_of_turn = end_of_turn
        self._anchor = anchor(tokenizer)
        self._ids: list[int] = []
        self._sent: list[str] = []
        self._start = 0  # the window: decoded again so that the tokenizer sees left context
        self._told = 0  # ids before this one have been returned
        self._known = self._seen = ""  # the window's text up to there, and up to the last token

    def push(self, token_id: int, *, last: bool = False) -> str:
        """The text that this token completes; with ``last``, also whatever was held back."""
        if token_id not in self._end_of_turn:
            self._ids.append(token_id)
        if last:
            return self._rest()
        text = self._window(len(self._ids))
        if text == self._seen:  # a special token, of which nothing is seen: no change of state
            return ""
        self._seen = text
        byte = BYTE.fullmatch(self._tokenizer.convert_ids_to_tokens(token_id) or "")
        if byte or text.endswith(REPLACEMENT) or not text.startswith(self._known):
            return ""
        return self._tell(text[len(self._known) :])

    def _tell(self, piece: str) -> str:
        self._sent.append(piece)
        if self._anchor is not None:
            self._start = self._told
        self._told = len(self._ids)
        self._known = self._seen = self._window(self._told)
        return piece

    def _rest(self) -> str:
        """What the whole has beyond the pieces so far."""
        sent, whole = "".join(self._sent), decode(self._tokenizer, self._ids)
        if whole.startswith(sent):
            return whole[len(sent) :]
        return self._window(len(self._ids))[len(self._known) :]

    def _window(self, end: int) -> str:
        # Decoders treat a text's first token differently: past it, an anchor is in its place.
        ids = self._ids[self._start : end]
        before = [self._anchor] if self._start and self._anchor is not None else []
        return decode(self._tokenizer, before + ids)


def check_decoder(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a decoder by which what comes later changes the text that has been sent.

    One that takes characters off a text's end: of a text that is shorter than what is taken off,
    the tokenizers library panics, too, which ends more than a request. And one that replaces
    several characters once tokens are joined: they may be of two tokens.

    Raises:
        PackError: the tokenizer has such a decoder.
    """
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    joined: str | None = None
    for stage in _stages(json.loads(decoder.__getstate__())) if decoder else ():
        kind = stage.get("type")
        if kind == "Strip" and stage.get("stop", 0):
            raise PackError(
                "tokenizer.json: the decoder strips the end of a text (Strip with stop over 0), so "
                "a reply could not be streamed: set its stop to 0, or use another base."
            )
        if kind == "Replace" and joined and len(stage["pattern"].get("String", "  ")) != 1:
            raise PackError(
                "tokenizer.json: the decoder replaces several characters where tokens are joined "
                f"already (Replace after {joined}), so a reply could not be streamed: use another "
                "base."
            )
        if kind in JOINING:
            joined = kind


def _stages(stage: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Of a decoder, in order."""
    yield stage
    for inner in stage.get("decoders", ()):
        yield from _stages(inner)


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], *, special: bool = False) -> str:
    """Text of tokens as it is, nothing cleaned up; ``special`` tokens are shown or left out."""
    text: str = tokenizer.decode(
        list(ids), skip_special_tokens=not special, clean_up_tokenization_spaces=False
    )
    return text


def anchor(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """A plain token to stand before others, so that none of those is a text's first."""
    named = (tokenizer.convert_tokens_to_ids(name) for name in ANCHORS)
    plain = (i for i in named if i is not None and i != tokenizer.unk_token_id)
    for token_id in chain(plain, range(LOOKED_AT)):
        text = decode(tokenizer, [token_id]).strip()
        if text.isascii() and text.isalnum():
            return int(token_id)
    return None


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
            # Python keeps bytes that are no text from U+DC80 on.
            escaped = raw.decode("utf-8", "surrogateescape")
            shown = (
                f"<0x{ord(c) - 0xDC00:02X}>" if "\udc80" <= c <= "\udcff" else c for c in escaped
            )
            return "".join(shown)
    return content
