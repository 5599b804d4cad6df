"""Parameters and AdamW's moments in one safetensors file, so that a killed run can go on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mpd_core.saving import replacing

_WEIGHT, _MOMENT = "policy.", "optimiser."


def trained(module: nn.Module) -> dict[str, Tensor]:
    """All parameters that require gradients, by name."""
    return {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}


@torch.no_grad()
def restore(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors that ``trained`` returned back into a module."""
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            parameter.copy_(tensors[name])


def save(
    file: Path, module: nn.Module, optimiser: torch.optim.Optimizer, facts: Mapping[str, str]
) -> None:
    """Write weights, AdamW's moments and metadata atomically."""
    tensors = {_WEIGHT + name: tensor for name, tensor in trained(module).items()}
    for index, moments in optimiser.state_dict()["state"].items():
        tensors |= {f"{_MOMENT}{index}.{name}": value for name, value in moments.items()}
    kept = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(file) as scratch:
        save_file(kept, scratch, metadata=dict(facts))


def facts_of(file: Path) -> dict[str, str]:
    """The metadata of a checkpoint."""
    with safe_open(file, "pt") as saved:
        return dict(saved.metadata())


def load(
    file: Path,
    module: nn.Module,
    optimiser: torch.optim.Optimizer,
    former: Mapping[str, str] | None = None,
) -> None:
    """Load a checkpoint; learning rates and parameter groups remain those of the given optimiser.

    ``former``: names of tensors in files of earlier versions, and what they are called now.
    """
    tensors, former = load_file(file), former or {}
    names = {k: k.removeprefix(_WEIGHT) for k in tensors if k.startswith(_WEIGHT)}
    restore(module, {former.get(name, name): tensors[k] for k, name in names.items()})
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith(_MOMENT):
            index, _, name = key.removeprefix(_MOMENT).partition(".")
            moments.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict(optimiser.state_dict() | {"state": moments})
