"""Control tokens: which they are, how they are kept out of what people write, and which end it."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from mpd_core.errors import PackError, RequestError, others_as

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DELIMITED = re.compile(r"<[|｜].+[|｜]>", re.DOTALL)
END_FILES, END_KEY = ("generation_config.json", "config.json"), "eos_token_id"
"""Where a base's own files name the tokens that end a reply."""
TURNS_KEPT = 64
ROUNDS = 8


class ControlTokens:
    """The markers of a conversation.

    A marker in a person's text is cut by a space, so that the tokenizer and the model read plain
    text. Added tokens that are plain text themselves (runs of spaces in GPT-NeoX's vocabulary,
    newlines and HTML in Gemma's) are no markers: they reach the model as they were typed.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        chat: str,
        reserved: Sequence[str],
        written: Collection[int],
    ) -> None:
        """Tell markers from text.

        Args:
            tokenizer: its special tokens are markers.
            chat: the Jinja template; added tokens in its own text are markers, special or not.
            reserved: markers that are ordinary text to the tokenizer.
            written: ids of the tokens that the template writes, however it puts them together.

        Raises:
            PackError: a reserved marker that no space can cut.
        """
        self._tokenizer = tokenizer
        literals = _literals(chat)
        special = set(tokenizer.all_special_tokens)
        control = {
            token_id: content
            for token_id, content, flagged in _added(tokenizer)
            if _is_marker(content, flagged or content in special)
            or (_is_sign(content) and (token_id in written or content in literals))
        }
        loose = special - set(control.values())
        control |= {tokenizer.convert_tokens_to_ids(c): c for c in loose if _is_marker(c, True)}
        # Text may hold what the tokenizer does not know; that is no way to end a turn.
        unknown = {tokenizer.unk_token_id} - {tokenizer.eos_token_id, tokenizer.bos_token_id}
        self.ids = frozenset(control.keys() - unknown)
        self._reserved = tuple(reserved)
        self._cuts = {marker: _cut(marker) for marker in sorted({*control.values(), *reserved})}
        for marker in reserved:
            if self._cuts[marker] is None:
                raise PackError(
                    f"template.reserved: {marker!r} cannot be told from text: give a marker of "
                    "at least two characters beside spaces."
                )
        self.defuse = lru_cache(TURNS_KEPT)(self._defuse)  # every expert reads the same turns
        """A person's text without markers, otherwise unchanged."""

    def _defuse(self, content: str) -> str:
        while places := set(self._places(content)):
            content = _spaced(content, places)
        # A normaliser may still make a marker of other characters: only the tokens can tell.
        for _ in range(ROUNDS):
            spans = self._spans(content)
            if not spans:
                break
            content = _spaced(content, {_inside(content, start, end) for start, end in spans})
        else:
            raise _undefusable(content[slice(*spans[0])])
        self._check_reserved(content)
        return content

    def _places(self, text: str) -> Iterator[int]:
        """Where a space cuts a marker; beside the template's own line breaks, a part is one."""
        for marker, cut in self._cuts.items():
            if cut is None:
                continue
            start = text.find(marker)
            while start >= 0:
                yield start + cut
                start = text.find(marker, start + 1)  # markers may overlap themselves
            left, right = marker.lstrip(), marker.rstrip()
            if left != marker and text.startswith(left):
                yield max(0, cut - len(marker) + len(left))
            if right != marker and text.endswith(right):
                yield min(len(text), len(text) - len(right) + cut)

    def _spans(self, text: str) -> list[tuple[int, int]]:
        """Where the tokenizer finds a control token all the same: start and end in the text."""
        known = self._tokenizer.is_fast
        with reading():
            found = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=known)
        ids = found["input_ids"]
        spans = found["offset_mapping"] if known else [(0, 1)] * len(ids)
        return [span for i, span in zip(ids, spans, strict=True) if i in self.ids]

    def _check_reserved(self, text: str) -> None:
        backend: Any = getattr(self._tokenizer, "backend_tokenizer", None)
        normalizer = getattr(backend, "normalizer", None)
        if normalizer is not None and self._reserved:
            read = normalizer.normalize_str(text)
            for marker in self._reserved:
                if marker in read and marker not in text:
                    raise _undefusable(marker)


def reading() -> AbstractContextManager[None]:
    """What a tokenizer raises at a text is told as a RequestError: one without a token for what it
    does not know fails at that."""
    return others_as(
        RequestError,
        lambda why: f"The model's tokenizer cannot read this text ({why}).",
    )


def _added(tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[int, str, bool]]:
    for token_id, token in tokenizer.added_tokens_decoder.items():
        yield int(token_id), str(token), bool(token.special)


def _is_marker(content: str, special: bool) -> bool:
    core = content.strip()
    return bool(core) and (special or DELIMITED.fullmatch(core) is not None)


def _is_sign(content: str) -> bool:
    """No blank, no word and no single character: those are text, even in a template."""
    core = content.strip()
    return len(core) > 1 and not core.isalnum()


def _literals(chat: str) -> str:
    """What a Jinja template writes by itself, without its code."""
    pieces = jinja2.Environment().lex(chat)
    return "\0".join(text for _, kind, text in pieces if kind in ("data", "string"))


def _cut(marker: str) -> int | None:
    """How many characters stand before the space that cuts a marker; None if nothing would."""
    for place in range(1, len(marker)):
        if not marker[place - 1].isspace() and not marker[place].isspace():
            return place
    # Only beside what is no space itself: " #" would still be in "  #".
    first = len(marker) - len(marker.lstrip(" "))
    return first + 1 if len(marker.strip(" ")) > 1 else None


def _spaced(text: str, places: Collection[int]) -> str:
    ends = [0, *sorted(places), len(text)]
    return " ".join(text[a:b] for a, b in pairwise(ends))


def _inside(text: str, start: int, end: int) -> int:
    cut = _cut(text[start:end])
    if cut is None:
        raise _undefusable(text[start:end])
    return start + cut


def _undefusable(found: str) -> RequestError:
    return RequestError(
        f"The text holds {found[:60]!r}, which is a control token to this model: leave it out."
    )


def end_tokens(tokenizer: PreTrainedTokenizerBase, names: Sequence[str]) -> frozenset[int]:
    """Ids of the tokens that end a reply: the pack's choice, ``names``, or else all that the
    tokenizer and the configuration of its base's folder name.

    Raises:
        PackError: a name that is no token, a configuration that cannot be read, or no end at all.
    """
    if names:
        return frozenset(_named(tokenizer, name) for name in names)
    own = tokenizer.eos_token_id
    folder = tokenizer.name_or_path
    ids = {*(_configured(Path(folder)) if folder else ()), *(() if own is None else (own,))}
    if not ids:
        raise PackError("template.end_of_turn: name the token that ends a reply.")
    return frozenset(ids)


def _named(tokenizer: PreTrainedTokenizerBase, name: str) -> int:
    token_id = tokenizer.convert_tokens_to_ids(name)
    if token_id is None or tokenizer.convert_ids_to_tokens(token_id) != name:
        raise PackError(f"template.end_of_turn: the tokenizer has no token '{name}'.")
    return int(token_id)


def _configured(folder: Path) -> list[int]:
    """What generation goes by, as in transformers; the model's configuration where that is mute."""
    for name in END_FILES:
        file = folder / name
        if not file.is_file():
            continue
        try:
            config: Any = json.loads(file.read_text(encoding="utf-8-sig"))
            found = config.get(END_KEY)
            if found is None:  # models of text and images keep it with the text's part
                found = (config.get("text_config") or {}).get(END_KEY)
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            raise PackError(f"base: {file} cannot be read: {error}") from error
        ids = found if isinstance(found, list) else [] if found is None else [found]
        if not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
            raise PackError(
                f"base: {file}: {END_KEY} is {found!r}: give a number, or a list of them."
            )
        if ids := [i for i in ids if i >= 0]:  # some write -1 for none
            return ids
    return []
