"""An adapter of some kind: what PEFT is told, and what is done to its files afterwards."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from torch import Tensor

from mpd_core.models.adapter_config import CONFIG_FILE
from mpd_core.models.adapters import WEIGHTS_FILE

Edit = Callable[[Path], object]


@dataclass(frozen=True)
class Kind:
    """An adapter as PEFT saves it, changed afterwards or not."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    edit: Edit = lambda _: None
    base: str = "llama"
    refused: str = ""
    """A part of the sentence; empty: computed as PEFT does."""
    save: Mapping[str, Any] = field(default_factory=dict)
    convert: bool = False
    """Convert it back with PEFT, for initialisations that change the base."""
    config: Any = LoraConfig


def configured(**values: Any) -> Edit:
    """Set keys of the configuration; a value of ... takes the key out."""

    def edit(folder: Path) -> None:
        file = folder / CONFIG_FILE
        config = json.loads(file.read_text()) | values
        kept = {key: value for key, value in config.items() if value is not ...}
        file.write_text(json.dumps(kept))

    return edit


def weighed(change: Callable[[dict[str, Tensor]], object]) -> Edit:
    """Change the tensors, in place or by returning others."""

    def edit(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS_FILE)
        found = change(tensors)
        save_file(found if isinstance(found, dict) else tensors, folder / WEIGHTS_FILE)

    return edit


def written(name: str, content: bytes | Callable[[bytes], bytes]) -> Edit:
    """Replace a file's bytes."""

    def edit(folder: Path) -> None:
        old = (folder / name).read_bytes()
        (folder / name).write_bytes(content if isinstance(content, bytes) else content(old))

    return edit


def renamed(pattern: str, to: str) -> Edit:
    """Other keys for the same tensors."""
    return weighed(lambda t: {re.sub(pattern, to, key): tensor for key, tensor in t.items()})


def poked(value: float) -> Edit:
    """One number in the first tensor."""

    def change(tensors: dict[str, Tensor]) -> None:
        tensors[min(tensors)][0, 0] = value

    return weighed(change)


def retyped(dtype: torch.dtype) -> Edit:
    return weighed(lambda t: {key: tensor.to(dtype) for key, tensor in t.items()})


def narrowed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """As if the base had been narrower."""
    return {k: v[:, 1:].contiguous() if "lora_A" in k else v for k, v in tensors.items()}
