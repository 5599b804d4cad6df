"""Small tokenizers of every family that language models come with."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from tests import tiny

BOS, EOS, UNK = "<s>", "</s>", "<unk>"
MARKER = "<|turn|>"
CHAT = (
    "{{ bos_token }}{% for m in messages %}<|turn|>{{ m['role'] }}\n{{ m['content'] }}"
    "{{ eos_token }}{% endfor %}<|turn|>assistant\n"
)
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
SPACES = [" " * n for n in range(12, 1, -1)]
LINES = ["\n" * n for n in range(6, 0, -1)]
HTML = ["<h1>", "</h1>", "<b>", "</b>", "<table>"]


def wrapped(tokenizer: Tokenizer, *plain: AddedToken, **options: Any) -> PreTrainedTokenizerFast:
    """A tokenizer with the special tokens and the template that the tests use."""
    special = [AddedToken(text, special=True) for text in (UNK, BOS, EOS, MARKER)]
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens(list(plain))
    roles = {"bos_token": BOS, "eos_token": EOS, "unk_token": UNK, "chat_template": CHAT}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{**roles, **options})


def plain(texts: list[str], *, normalized: bool = False) -> list[AddedToken]:
    return [AddedToken(text, normalized=normalized, special=False) for text in texts]


def byte_level() -> PreTrainedTokenizerFast:
    """GPT-2, SmolLM, LLaMA 3, Qwen."""
    return tiny.make_tokenizer()


def neox() -> PreTrainedTokenizerFast:
    """GPT-NeoX, Pythia, OLMo: byte-level, and runs of spaces as added tokens."""
    tokenizer = Tokenizer.from_str(tiny.make_tokenizer().backend_tokenizer.to_str())
    tokenizer.normalizer = normalizers.NFC()
    return wrapped(tokenizer, *plain(SPACES, normalized=True))


def metaspace() -> PreTrainedTokenizerFast:
    """T5, XGLM: a unigram model whose pieces begin with a metaspace."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=[UNK, BOS, EOS], unk_token=UNK, show_progress=False
    )
    tokenizer.train_from_iterator(tiny.CORPUS * 3, trainer)
    return wrapped(tokenizer)


def byte_fallback(*added: AddedToken, strip: bool = True) -> PreTrainedTokenizerFast:
    """LLaMA 2, Mistral; without ``strip``, Gemma: unknown characters are spelled in bytes."""
    trained = Tokenizer(models.BPE())
    mark = normalizers.Replace(" ", "▁")
    trained.normalizer = mark
    trainer = trainers.BpeTrainer(vocab_size=200, show_progress=False)
    trained.train_from_iterator([tiny.CORPUS[0], tiny.CORPUS[3]] * 3, trainer)
    tokens = sorted(trained.get_vocab(), key=trained.get_vocab().__getitem__)
    words = ["▁the", "▁cat", "▁sat", "▁a", "cat"]
    order = [*dict.fromkeys([UNK, BOS, EOS, *BYTES, *words, *tokens])]
    vocabulary = {token: number for number, token in enumerate(order)}
    merges = [tuple(pair) for pair in _merges(trained)]
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token=UNK, byte_fallback=True, fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), mark]) if strip else mark
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, *([decoders.Strip(" ", 1, 0)] if strip else [])])
    return wrapped(tokenizer, *added)


def gemma() -> PreTrainedTokenizerFast:
    """Byte fallback, and newlines and HTML as added tokens."""
    return byte_fallback(*plain(LINES), *plain(HTML), strip=False)


def wordpiece() -> PreTrainedTokenizerFast:
    """BERT's kind, for decoders with ``##``."""
    words = ["the", "cat", "sat", "on", "a", "do", "n", "'", "t", "not", ".", ",", "!"]
    order = [UNK, BOS, EOS, *words, *(f"##{word}" for word in ("s", "ing", "a", "t", "1"))]
    model = models.WordPiece({token: i for i, token in enumerate(order)}, unk_token=UNK)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece()
    return wrapped(tokenizer)


def suffixes() -> PreTrainedTokenizerFast:
    """GPT-1, CTRL's kin: tokens that end a word say so."""
    order = [UNK, BOS, EOS, "a", "b", "cat", "a</w>", "cat</w>", "sat</w>", "</w>"]
    vocabulary = {token: i for i, token in enumerate(order)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token=UNK, end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.BPEDecoder()
    return wrapped(tokenizer)


def words() -> PreTrainedTokenizerFast:
    """Whole words, and no decoder at all."""
    order = [UNK, BOS, EOS, "the", "cat", "sat", "."]
    model = models.WordLevel({token: i for i, token in enumerate(order)}, unk_token=UNK)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return wrapped(tokenizer)


def _merges(trained: Tokenizer) -> list[list[str]]:
    found: list[Any] = json.loads(trained.to_str())["model"]["merges"]
    return [pair if isinstance(pair, list) else pair.split(" ") for pair in found]


FAMILIES: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "byte-level": byte_level,
    "NeoX": neox,
    "metaspace": metaspace,
    "byte fallback": byte_fallback,
    "Gemma": gemma,
    "WordPiece": wordpiece,
    "suffixes": suffixes,
    "words": words,
}
