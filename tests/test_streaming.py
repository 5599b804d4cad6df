"""Text that streams out exactly as its tokenizer decodes it, and what candidates are called."""

from __future__ import annotations

from itertools import chain
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpd_core.prompts import StreamDecoder, name_tokens
from mpd_core.prompts.streaming import REPLACEMENT
from tests import tiny_tokenizers

TOKENIZERS = {name: make() for name, make in tiny_tokenizers.FAMILIES.items()}
TEXT = "A naïve 😀👩‍🔬 says 你好\n\n  twice;\ttabs too"


def stream(tokenizer: Any, ids: list[int]) -> list[str]:
    decoder = StreamDecoder(tokenizer)
    return [decoder.push(i, last=k == len(ids) - 1) for k, i in enumerate(ids)]


def whole(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def spelled(text: str) -> list[int]:
    """In the byte tokens of the byte-fallback family."""
    return [3 + byte for byte in text.encode()]


@pytest.mark.parametrize("family", ["byte-level", "NeoX", "Gemma"])
@pytest.mark.parametrize("text", [TEXT, "😀" * 5, "\n\n", " lead", "tail "])
def test_stream_is_byte_exact(family: str, text: str) -> None:
    tokenizer = TOKENIZERS[family]
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces = stream(tokenizer, ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == text
    assert REPLACEMENT not in "".join(pieces)


def test_incomplete_characters_are_held() -> None:
    tokenizer = TOKENIZERS["byte-level"]
    ids = tokenizer("😀", add_special_tokens=False)["input_ids"]
    assert len(ids) > 1
    decoder = StreamDecoder(tokenizer)
    assert [decoder.push(i) for i in ids] == [""] * (len(ids) - 1) + ["😀"]


def ids_of(tokenizer: Any) -> st.SearchStrategy[list[int]]:
    """Any tokens, and often ends, special ones, bytes, and numbers that are no token."""
    size = len(tokenizer)
    special = [i for i, token in tokenizer.added_tokens_decoder.items() if token.special]
    characters = st.text("é你😀 a", max_size=3).map(
        lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]
    )
    cut = st.tuples(characters, st.integers(1, 3)).map(lambda both: both[0][: -both[1]])
    one = st.integers(0, size + 2).map(lambda i: [i])
    pieces = st.one_of(one, one, st.sampled_from(special).map(lambda i: [i]), characters, cut)
    joined = st.lists(pieces, min_size=1, max_size=20).map(lambda found: [*chain(*found)])
    return joined.filter(bool)


@pytest.mark.parametrize("family", TOKENIZERS)
@given(data=st.data())
@settings(max_examples=70, deadline=None)
def test_any_ids_join_to_the_decoded_whole(family: str, data: st.DataObject) -> None:
    tokenizer = TOKENIZERS[family]
    ids = data.draw(ids_of(tokenizer))
    assert "".join(stream(tokenizer, ids)) == whole(tokenizer, ids)


@pytest.mark.parametrize("family", TOKENIZERS)
def test_pieces_come_as_soon_as_they_are_sure(family: str) -> None:
    """Not all at the end, which would be exact, too; and a long reply has a short window."""
    tokenizer = TOKENIZERS[family]
    cat = tokenizer(" cat", add_special_tokens=False)["input_ids"]
    ids = [i for i in cat if i != tokenizer.unk_token_id] * 40
    decoder = StreamDecoder(tokenizer)
    pieces = [decoder.push(i) for i in ids]
    assert all(pieces[1:])
    assert len(decoder._ids) - decoder._start <= 2
    assert "".join(pieces).rstrip() == whole(tokenizer, ids).rstrip()


def test_a_space_after_a_special_token_stays() -> None:
    tokenizer = TOKENIZERS["byte fallback"]
    the, bos, cat = tokenizer.convert_tokens_to_ids(["▁the", "<s>", "▁cat"])
    assert stream(tokenizer, [the, bos, bos, cat]) == ["the", "", "", " cat"]
    assert stream(tokenizer, [bos, the, cat]) == ["", "the", " cat"]


def test_characters_in_bytes_wait_for_the_token_that_ends_them() -> None:
    """One byte too many undoes all before it, as the tokenizer has it: nothing is sure earlier."""
    tokenizer = TOKENIZERS["byte fallback"]
    cat = tokenizer.convert_tokens_to_ids("▁cat")
    assert stream(tokenizer, [cat, *spelled("你"), cat]) == ["cat", "", "", "", "你 cat"]
    assert stream(tokenizer, [cat, *spelled("你")]) == ["cat", "", "", "你"]
    for bad in ([*spelled("你"), 3 + 0xFF], [*spelled("你😀")[:-1]]):
        assert "".join(stream(tokenizer, bad)) == REPLACEMENT * len(bad)


def test_the_end_of_a_turn_is_no_text() -> None:
    tokenizer = TOKENIZERS["Gemma"]
    cat, end = tokenizer.convert_tokens_to_ids(["▁cat", "<b>"])
    decoder = StreamDecoder(tokenizer, frozenset({end}))
    assert [decoder.push(cat), decoder.push(end, last=True)] == [" cat", ""]


@pytest.mark.parametrize("family", TOKENIZERS)
def test_no_two_candidates_have_one_name(family: str) -> None:
    tokenizer = TOKENIZERS[family]
    name = name_tokens(tokenizer)
    count = len(tokenizer) + 20  # models pad their logits
    names = [name(i) for i in range(count)]
    assert len(set(names)) == count
    assert all(names)
    assert REPLACEMENT not in "".join(names)
    assert names == [name(i) for i in range(count)]


@pytest.mark.parametrize(
    ("family", "token", "expected"),
    [
        ("byte fallback", "▁the", " the"),
        ("byte fallback", "cat", "cat"),
        ("byte fallback", "<0xE4>", "<0xE4>"),
        ("byte fallback", "<0x61>", "<0x61>"),
        ("byte-level", "Ġt", " t"),
        ("byte-level", "ð", "<0xF0>"),
        ("byte-level", "<|im_end|>", "<|im_end|>"),
        ("Gemma", "\n\n", "\n\n"),
        ("metaspace", "▁ca", " ca"),
        ("WordPiece", "##s", "s"),
        ("suffixes", "cat</w>", "cat</w>"),
    ],
)
def test_candidates_are_called_what_they_read_as(family: str, token: str, expected: str) -> None:
    tokenizer = TOKENIZERS[family]
    assert name_tokens(tokenizer)(tokenizer.convert_tokens_to_ids(token)) == expected
