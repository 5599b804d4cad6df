"""Experts share the tokenizer and embed all of its tokens, or the error shows the difference."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken
from transformers import AutoTokenizer

from mpd_core.engine import Engine
from mpd_core.errors import EngineError, PackError, RequestError
from mpd_core.models.vocabulary import check_same_vocabulary
from mpd_core.packs import Pack, load_pack
from mpd_core.request import GenerationRequest, Message, Sampling
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


def longer(base: Path, folder: Path, *tokens: AddedToken, **roles: str) -> Path:
    """A base whose tokenizer was given tokens, and whose embedding was not resized."""
    shutil.copytree(base, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(list(tokens))
    for role, value in roles.items():
        setattr(tokenizer, role, value)
    tokenizer.save_pretrained(folder)
    return folder


ODD = AddedToken("<|odd|>", special=True)


@pytest.mark.parametrize(
    ("token", "roles"),
    [
        (ODD, {"chat_template": "<|odd|>" + tiny.CHAT}),
        (ODD, {"eos_token": "<|odd|>"}),
        (AddedToken("    ", special=False), {}),
    ],
)
def test_a_token_that_can_occur_and_has_no_embedding_is_refused(
    tiny_base: Path, tmp_path: Path, token: AddedToken, roles: dict[str, str]
) -> None:
    base = longer(tiny_base, tmp_path / "base", token, **roles)
    size = len(tiny.make_tokenizer())
    with pytest.raises(PackError, match=rf"^base: .* {size}, but the model embeds only {size} tok"):
        Engine.open(load_pack(tiny.write_pack(tmp_path, base)))


def test_a_token_that_never_occurs_needs_no_embedding(tiny_base: Path, tmp_path: Path) -> None:
    """Padding that was added for training, as in many a LLaMA; a person cannot write it."""
    base = longer(tiny_base, tmp_path / "base", ODD, pad_token="<|odd|>")
    engine = Engine.open(load_pack(tiny.write_pack(tmp_path, base)))
    try:
        trace = engine.generate(asked("a <|odd|>", method="vanilla"))
    finally:
        engine.close()
    assert len(trace.steps) > 0


def go_on(engine: Engine) -> None:
    """Until any token has come up."""
    for seed in range(40):
        engine.generate(asked("see", seed=seed))


def asked(prompt: str, *, method: str = "mpd", seed: int = 1) -> GenerationRequest:
    sampling = Sampling(max_new_tokens=300, temperature=2.0, seed=seed)
    return GenerationRequest((Message("user", prompt),), "AAA", method, sampling=sampling)


def test_what_a_backbone_does_not_embed_is_never_read_as_something_else(
    tiny_base: Path, make_pack: Callable[..., Pack], tmp_path: Path
) -> None:
    """A PCM with a smaller vocabulary, as a 32,000-token LLaMA beside one with added tokens."""
    size = len(tiny.make_tokenizer()) - 1
    small = tmp_path / "small"
    shutil.copytree(tiny_base, small)
    tiny.make_model(size, seed=3).save_pretrained(small)
    engine = Engine.open(make_pack(pcm_backbone=small))
    last = tiny.HOSTILE[-1]
    try:
        with pytest.raises(RequestError, match="a token that 'pcm' has no embedding for"):
            engine.submit(asked(f"see {last}"))
        assert engine.generate(asked(f"see {last}", method="vanilla")).steps
        with pytest.raises(EngineError, match=r"came to .* PCM's backbone has no embedding for"):
            go_on(engine)
    finally:
        engine.close()


def test_a_backbone_that_lacks_the_templates_tokens_is_refused(
    tiny_base: Path, tmp_path: Path
) -> None:
    base = longer(tiny_base, tmp_path / "base", ODD, chat_template="<|odd|>" + tiny.CHAT)
    size = len(tiny.make_tokenizer())
    tiny.make_model(size + 1, seed=0).save_pretrained(base)
    pack = tiny.write_pack(tmp_path, base, pcm_backbone=tiny_base)
    with pytest.raises(PackError, match=rf"^pcm\.backbone: .*'<\|odd\|>' {size}, but the model"):
        Engine.open(load_pack(pack))


def test_a_backbone_with_another_tokenizer_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    """Its weights would come of another text: of as many tokens, numbered otherwise."""
    backbone = Path(shutil.copytree(tiny_base, tmp_path / "backbone"))
    file = backbone / "tokenizer.json"
    told = json.loads(file.read_text())
    words = told["model"]["vocab"]
    words["a"], words["b"] = words["b"], words["a"]
    file.write_text(json.dumps(told))
    pack = tiny.write_pack(tmp_path, tiny_base, pcm_backbone=backbone)
    with pytest.raises(PackError, match=r"^pcm\.backbone: its tokenizer .*: 'a' is \d+ there and"):
        Engine.open(load_pack(pack))
