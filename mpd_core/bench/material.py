"""What the bench runs on: a pack with random adapters over another pack's base.

Speed does not depend on what an adapter says, and trained ones end their replies when they like:
each pole, and the PCM, gets a LoRA of seeded random numbers, small but large enough that the
experts disagree. Its shape is that of the pack's own adapters; without any, rank 8 on all linears.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import tomlkit
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from mpd_core.bench.roofline import Shapes
from mpd_core.models.adapters import load_adapter, lowest_layer
from mpd_core.models.base import LOCAL
from mpd_core.packs import Pack, file_sha256

RANK = 8
B_STD = 0.125
"""Of B. A's rows have length one, so an adapter adds about 0.7 to outputs of about one whatever
the width; experts of SmolLM2 then differ by about 0.1 nats."""
CONTEXT = 512

PROMPTS = (
    "Explain photosynthesis.",
    "Why is the sky blue?",
    "How does a vaccine work?",
    "What happened in the French Revolution?",
    "How do I get better at chess?",
    "What is a black hole?",
    "Give me tips for a job interview.",
    "How does the internet find a web page?",
)


def shapes_of(base: Path, pack: Pack) -> Shapes:
    """Read the sizes from a model's folder without its weights, and from a pack's adapters."""
    config = AutoConfig.from_pretrained(base, **LOCAL)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    output = model.get_output_embeddings()
    linears = {
        name: (module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not output
    }
    adapters = [load_adapter(n, pack.path(s.folder)) for n, s in pack.spec.experts.adapters.items()]
    touched = {name for adapter in adapters for name in adapter.factors} or set(linears)
    heads, layers = config.num_attention_heads, config.num_hidden_layers
    return Shapes(
        linears=linears,
        vocabulary=config.vocab_size,
        hidden=config.hidden_size,
        layers=layers,
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        adapted={name: size for name, size in linears.items() if name in touched},
        rank=max((len(a) for one in adapters for a, _ in one.factors.values()), default=RANK),
        trunk=lowest_layer(adapters, layers) if adapters else 0,
    )


def _write_adapter(folder: Path, shapes: Shapes, seed: int) -> str:
    """Write a random LoRA adapter as PEFT does; the SHA-256 of its weights.

    Its numbers are ones that fp16 holds, so that who packs adapters runs the same weights.
    """
    folder.mkdir(parents=True)
    random = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for name, (width, height) in shapes.adapted.items():
        key = f"base_model.model.{name}.lora_"
        a = torch.randn(shapes.rank, width, generator=random) / math.sqrt(width)
        b = torch.randn(height, shapes.rank, generator=random) * B_STD
        tensors |= {f"{key}A.weight": a.half().float(), f"{key}B.weight": b.half().float()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "r": shapes.rank,
        "lora_alpha": 2 * shapes.rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
        "target_modules": sorted({name.rpartition(".")[2] for name in shapes.adapted}),
        "layers_to_transform": list(range(shapes.trunk, shapes.layers)) if shapes.trunk else None,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return file_sha256(folder / "adapter_model.safetensors")


def write_pack(
    folder: Path, pack: Pack, base: Path, seed: int, *, experts: int | None = None
) -> Path:
    """The bench's pack: the dimensions of another pack, an adapter for every pole and the PCM.

    With ``experts`` its dimensions are so many that as many experts can speak at once.
    """
    dimensions = [d.model_dump() for d in pack.spec.dimensions]
    if experts:
        said = {"on": "Mind point", "off": "Forget point"}
        dimensions = [
            {
                "name": f"d{k}",
                "poles": [{"name": f"{n}{k}", "instruction": f"{s} {k}."} for n, s in said.items()],
            }
            for k in range(experts)
        ]
    poles = [pole["name"] for dimension in dimensions for pole in dimension["poles"]]
    adapted = [name for name in poles if not (experts and name.startswith("off"))]
    shapes = shapes_of(base, pack)
    adapters = {
        name: {"folder": name, "sha256": _write_adapter(folder / name, shapes, seed + k)}
        for k, name in enumerate([*adapted, "pcm"])
    }
    head = folder / "head.safetensors"
    random = torch.Generator().manual_seed(seed + len(adapted))
    weight = torch.randn(len(poles), shapes.hidden, generator=random) / math.sqrt(shapes.hidden)
    save_file({"weight": weight, "bias": torch.zeros(len(poles))}, head)
    source = {"kind": "folder", "folder": str(base.resolve())}
    # A fixed number of tokens is what is timed, so a reply ends with a token that is hardly ever
    # likeliest; that none ended early is checked in every run.
    template = pack.spec.template.model_dump(mode="json", exclude_none=True)
    document = {
        "schema_version": 1,
        "name": "bench",
        "title": "Random adapters",
        "base": {"name": "bench", "quantize": pack.spec.base.quantize, "source": source},
        "template": {**template, "end_of_turn": [_unlikely_token(base)]},
        "dimensions": dimensions,
        "pcm": {
            "adapter": adapters.pop("pcm"),
            "head": {"file": head.name, "sha256": file_sha256(head)},
        },
        "experts": {"prompt": "plain", "adapters": adapters},
        "decode": {"context": CONTEXT, "max_new_tokens_limit": CONTEXT},
    }
    (folder / "pack.toml").write_text(tomlkit.dumps(document), encoding="utf-8")
    return folder


def _unlikely_token(base: Path) -> str:
    tokenizer = AutoTokenizer.from_pretrained(base, **LOCAL)
    usual = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token, tokenizer.pad_token}
    added = [str(token) for _, token in sorted(tokenizer.added_tokens_decoder.items())]
    told = tokenizer.chat_template or ""
    spare = [text for text in added if text not in usual and text not in told]
    return spare[-1] if spare else str(tokenizer.convert_ids_to_tokens(len(tokenizer) - 1))
