"""Makes models small enough for a test: real architectures with random weights."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from mpd_core.packs import file_sha256

HOSTILE = (
    '<img src=x onerror="window.hacked=1">',
    "${window.hacked=1}",
    "<script>window.hacked=1</script>",
    "{{value}}",
    "![x](https://example.com/x.png)",
)
CORPUS = [
    "the cat sat on the mat and explained photosynthesis to a friend",
    "naïve café 你好世界 日本語 😀🎉👩‍🔬 — “quotes”",
    string.printable,
    " ".join(string.ascii_letters),
]
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LORA_TARGETS = ["q_proj", "v_proj", "down_proj"]
SHAPE: dict[str, Any] = {
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "initializer_range": 0.3,
    "eos_token_id": 2,
}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE, so that multi-byte characters break across tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in HOSTILE])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        bos_token="<|im_start|>",
        chat_template=CHAT,
    )


def make_model(vocab_size: int, *, seed: int, hidden: int = 64) -> LlamaForCausalLM:
    """A LLaMA with two layers and grouped-query attention, sharp enough to have opinions."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab_size, hidden_size=hidden, tie_word_embeddings=False, **SHAPE
    )
    return LlamaForCausalLM(config).eval()


def save_base(folder: Path, *, seed: int = 0, hidden: int = 64, hostile: bool = False) -> Path:
    """Write a tiny base, with its tokenizer, as ``save_pretrained`` does.

    With ``hostile`` its replies are full of the vocabulary's hostile tokens.
    """
    tokenizer = make_tokenizer()
    model = make_model(len(tokenizer), seed=seed, hidden=hidden)
    if hostile:
        with torch.no_grad():
            model.lm_head.weight[tokenizer.convert_tokens_to_ids(list(HOSTILE))] *= 3
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_qwen2(folder: Path, *, seed: int, padding: int = 0) -> Path:
    """Write a tiny Qwen2, another architecture with biases, that shares the tiny tokenizer.

    ``padding`` widens its logits beyond the vocabulary, as many checkpoints do.
    """
    tokenizer = make_tokenizer()
    torch.manual_seed(seed)
    config = Qwen2Config(vocab_size=len(tokenizer) + padding, hidden_size=64, **SHAPE)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_adapter(base: Path, folder: Path, *, rank: int, seed: int, first_layer: int = 0) -> Path:
    """Write a random LoRA adapter, as PEFT does, that changes the base visibly."""
    model = LlamaForCausalLM.from_pretrained(base)
    torch.manual_seed(seed)
    upper = list(range(first_layer, SHAPE["num_hidden_layers"])) if first_layer else None
    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules=LORA_TARGETS, layers_to_transform=upper
    )
    adapted = get_peft_model(model, config)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    adapted.save_pretrained(folder)
    return folder


def save_head(file: Path, *, hidden: int, poles: int, seed: int = 0) -> Path:
    """Write a random weight head."""
    torch.manual_seed(seed)
    weight, bias = torch.randn(poles, hidden) * 0.3, torch.randn(poles)
    save_file({"weight": weight, "bias": bias}, file)
    return file


def write_pack(
    folder: Path,
    base: Path,
    *,
    dimensions: int = 3,
    prompt: str = "own",
    soup: str = "product",
    adapters: bool = False,
    anchor: bool = False,
    prior: float = 0.0,
    rank: int | None = None,
    first_layer: int = 0,
    pcm_backbone: Path | None = None,
    pcm_trained: bool = False,
    experts: str = "",
    extra: str = "",
) -> Path:
    """Write a pack over a tiny base; pole names are up0, down0, up1 ..."""
    lines = [
        'schema_version = 1\nname = "tiny"\ntitle = "Tiny"',
        f'[base]\nname = "tiny"\n[base.source]\nkind = "folder"\nfolder = "{base}"',
        *(dimension(d) for d in range(dimensions)),
        f'[experts]\nprompt = "{prompt}"\nsoup = "{soup}"\nprior = {prior}',
    ]
    if adapters:
        for index, pole in enumerate(
            f"{way}{d}" for d in range(dimensions) for way in ("up", "down")
        ):
            size = rank or 2 + index % 3
            spec = _adapter(folder, base, pole, rank=size, seed=index, first_layer=first_layer)
            lines.append(f"[experts.adapters.{pole}]\n{spec}")
    if anchor:
        spec = _adapter(folder, base, "anchor", rank=3, seed=77, first_layer=first_layer)
        lines.append(f"[experts.anchor]\n{spec}")
    lines.append(experts)
    lines += _pcm(
        folder,
        base,
        pcm_backbone,
        pcm_trained,
        poles=2 * dimensions,
        first_layer=0 if pcm_backbone else first_layer,
    )
    lines += ["[decode]\ncontext = 1024\nmax_new_tokens = 32", extra]
    (folder / "pack.toml").write_text("\n".join(lines), encoding="utf-8")
    return folder


def dimension(index: int) -> str:
    poles = (
        f'[[dimensions.poles]]\nname = "{way}{index}"\ninstruction = "Please go {way} {index}."'
        for way in ("up", "down")
    )
    return f'[[dimensions]]\nname = "dim{index}"\n' + "\n".join(poles)


def _adapter(
    folder: Path, base: Path, name: str, *, rank: int, seed: int, first_layer: int = 0
) -> str:
    save_adapter(base, folder / name, rank=rank, seed=seed, first_layer=first_layer)
    sha = file_sha256(folder / name / "adapter_model.safetensors")
    return f'folder = "{name}"\nsha256 = "{sha}"'


def _pcm(
    folder: Path,
    base: Path,
    backbone: Path | None,
    trained: bool,
    *,
    poles: int,
    first_layer: int,
) -> list[str]:
    lines = ["[pcm]"]
    if trained:
        hidden = LlamaConfig.from_pretrained(backbone or base).hidden_size
        sha = file_sha256(save_head(folder / "head.safetensors", hidden=hidden, poles=poles))
        lines.append(f'head = {{ file = "head.safetensors", sha256 = "{sha}" }}')
        spec = _adapter(folder, backbone or base, "pcm", rank=4, seed=99, first_layer=first_layer)
        lines.append(f"[pcm.adapter]\n{spec}")
    if backbone:
        lines.append(f'[pcm.backbone]\nkind = "folder"\nfolder = "{backbone}"')
    return lines
