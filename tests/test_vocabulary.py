"""Experts must share the tokenizer; where they do not, the error shows the difference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken
from transformers import AutoTokenizer

from mpd_core.errors import PackError
from mpd_core.experts.vocabulary import check_same_vocabulary
from tests import tiny


@pytest.fixture
def base(tiny_base: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_base)


@pytest.fixture
def other() -> Any:
    """The same tokenizer, made anew."""
    return tiny.make_tokenizer()


def difference(base: Any, other: Any) -> str:
    """The message, which is one readable line."""
    with pytest.raises(PackError) as error:
        check_same_vocabulary(base, other, "friendly")
    text = str(error.value)
    assert text.startswith("Expert 'friendly' does not share the base's vocabulary: ")
    assert text.endswith("use a checkpoint of the same family.")
    assert text.isascii()
    assert text.isprintable()
    assert len(text) < 900
    return text


def test_same_tokenizer_passes(base: Any, other: Any) -> None:
    check_same_vocabulary(base, other, "friendly")
    check_same_vocabulary(base, base, "friendly")


def test_what_is_never_read_does_not_matter(base: Any, other: Any) -> None:
    other.pad_token = other.unk_token = "<|endoftext|>"
    other.chat_template = None
    check_same_vocabulary(base, other, "friendly")


def test_one_more_token(base: Any, other: Any) -> None:
    other.add_tokens([AddedToken("<|new\n|>")])
    size = len(base)
    text = difference(base, other)
    assert f"it has {size + 1} tokens and the base {size}" in text
    assert f"'<|new\\n|>' is {size} there and absent in the base" in text
    assert "'<|new\\n|>' is an added token there and no added token in the base" in text


def test_other_order(base: Any, other: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same size, two tokens exchanged: both numbers are shown, the lower id first."""
    vocab = other.get_vocab()
    first, second = sorted(vocab, key=vocab.__getitem__)[100:102]
    swapped = {**vocab, first: vocab[second], second: vocab[first]}
    monkeypatch.setattr(other, "get_vocab", lambda: swapped)
    text = difference(base, other)
    assert "tokens and the base" not in text
    assert f"{first!a} is 101 there and 100 in the base" in text
    assert text.index(" is 101 there") < text.index(" is 100 there")


def test_many_differences_are_counted(
    base: Any, other: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shifted = {token: index + 1 for token, index in other.get_vocab().items()}
    monkeypatch.setattr(other, "get_vocab", lambda: shifted)
    text = difference(base, other)
    assert "'<|endoftext|>' is 1 there and 0 in the base" in text
    assert f"{len(shifted) - 3} more differ" in text


@pytest.mark.parametrize("role", ["bos_token", "eos_token"])
def test_special_token_with_another_role(base: Any, other: Any, role: str) -> None:
    before = getattr(base, role)
    token = next(t for t in ("<|endoftext|>", "<|im_end|>") if t != before)
    setattr(other, role, token)
    assert f"{role} is '{token}' there and '{before}' in the base" in difference(base, other)


def test_ordinary_token_that_became_special(base: Any, other: Any) -> None:
    """Equal numbers, but one of them takes the text out before the other would split it."""
    token = tiny.HOSTILE[1]
    other.add_tokens([AddedToken(token, special=True)], special_tokens=True)
    text = difference(base, other)
    assert f"{token!a} is a special token there and an added token in the base" in text
