"""What the bench runs on: a pack with random adapters over another pack's base.

Speed does not depend on what an adapter says, and trained ones end their replies when they like:
each pole, and the PCM, gets a LoRA of seeded random numbers, small but large enough that the
experts disagree. Its shape is that of the pack's own adapters; without any, rank 8 on all linears.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import tomlkit
import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from mpd_core.models.files import LOCAL
from mpd_core.packs import Pack, file_sha256

RANK = 8
B_STD = 0.125
"""Of B. A's rows have length one, so an adapter adds about 0.7 to outputs of about one whatever
the width; experts of SmolLM2 then differ by about 0.1 nats."""
CONTEXT = 512
"""Tokens of one request, prompt and reply."""


def _write_adapter(folder: Path, base: Path, pack: Pack, seed: int) -> dict[str, str]:
    """Write a random LoRA adapter as PEFT does; its table in a pack.

    Its numbers are ones that fp16 holds, so that who packs adapters runs the same weights.
    """
    size: dict[str, Any] = {"r": RANK, "target_modules": "all-linear"}
    for adapter in list(pack.spec.experts.adapters.values())[:1]:
        own = vars(LoraConfig.from_pretrained(pack.path(adapter.folder)))
        size = {key: own[key] for key in ("r", "target_modules", "layers_to_transform")}
    config = LoraConfig(**size, lora_alpha=2 * size["r"], task_type="CAUSAL_LM")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base, **LOCAL))
        adapted = inject_adapter_in_model(config, model)
    random, tensors = torch.Generator().manual_seed(seed), {}
    for key, like in get_peft_model_state_dict(adapted).items():
        scale = B_STD if "lora_B" in key else 1 / math.sqrt(like.shape[-1])
        numbers = torch.randn(like.shape, generator=random) * scale
        tensors[f"base_model.model.{key}"] = numbers.half().float()
    config.inference_mode = True
    config.save_pretrained(folder)
    file = folder / "adapter_model.safetensors"
    save_file(tensors, file, metadata={"format": "pt"})
    return {"folder": folder.name, "sha256": file_sha256(file)}


def write_pack(folder: Path, pack: Pack, base: Path, *, experts: int = 0) -> Path:
    """The bench's pack: the dimensions of another pack, an adapter for every pole and the PCM.

    With ``experts`` its dimensions are so many that as many experts can speak at once.
    """
    dimensions = [d.model_dump() for d in pack.spec.dimensions]
    if experts:
        pairs = [(f"on{k}", f"off{k}") for k in range(experts)]
        two = [[{"name": name, "instruction": f"Be {name}."} for name in pair] for pair in pairs]
        dimensions = [{"name": f"d{k}", "poles": poles} for k, poles in enumerate(two)]
    names = [pole["name"] for dimension in dimensions for pole in dimension["poles"]]
    adapted = [name for name in names if not (experts and name.startswith("off"))]
    named = enumerate([*adapted, "pcm"])
    adapters = {name: _write_adapter(folder / name, base, pack, seed) for seed, name in named}
    pcm = adapters.pop("pcm")
    head, random = folder / "head.safetensors", torch.Generator().manual_seed(len(adapted))
    hidden = AutoConfig.from_pretrained(base, **LOCAL).hidden_size
    weight = torch.randn(len(names), hidden, generator=random) / math.sqrt(hidden)
    save_file({"weight": weight, "bias": torch.zeros(len(names))}, head)
    # A fixed number of tokens is what is timed, so a reply ends with a token that is hardly ever
    # likeliest; that none ended early is checked in every run.
    template = pack.spec.template.model_dump(mode="json", exclude_none=True)
    source = {"kind": "folder", "folder": str(base.resolve())}
    document = {
        "schema_version": 1,
        "name": "bench",
        "title": "Random adapters",
        "base": {"name": "bench", "quantize": pack.spec.base.quantize, "source": source},
        "template": {**template, "end_of_turn": [_unlikely_token(base)]},
        "dimensions": dimensions,
        "pcm": {"adapter": pcm, "head": {"file": head.name, "sha256": file_sha256(head)}},
        "experts": {"prompt": "plain", "adapters": adapters},
        "decode": {"context": CONTEXT, "max_new_tokens_limit": CONTEXT},
    }
    (folder / "pack.toml").write_text(tomlkit.dumps(document), encoding="utf-8")
    return folder


def _unlikely_token(base: Path) -> str:
    """The last of the vocabulary that no template says."""
    tokenizer = AutoTokenizer.from_pretrained(base, **LOCAL)
    told = [tokenizer.chat_template or "", *tokenizer.all_special_tokens]
    tokens: list[str] = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    return next(token for token in reversed(tokens) if not any(token in text for text in told))
