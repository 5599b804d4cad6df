"""LoRA adapters as files: read from PEFT's standard folders, checked to the last tensor."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mpd_core.errors import PackError

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
_KEY = re.compile(r"^base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight$")
_UNSUPPORTED = (
    "use_dora",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "lora_bias",
    "layers_pattern",
    "exclude_modules",
)


@dataclass(frozen=True)
class LoraAdapter:
    """One adapter: module name to (A [rank, in], B [out, rank]), its scaling, what it targets."""

    name: str
    scaling: float
    factors: Mapping[str, tuple[Tensor, Tensor]]
    config: Mapping[str, Any]

    def to(self, dtype: torch.dtype) -> LoraAdapter:
        """The same with its factors in another type."""
        factors = {module: (a.to(dtype), b.to(dtype)) for module, (a, b) in self.factors.items()}
        return replace(self, factors=factors)

    def check(self, model: nn.Module) -> None:
        """Hold the adapter against a model.

        Raises:
            PackError: a target without tensors, tensors without a target, or shapes that differ.
        """
        linears = {name: module for name, module in model.named_modules() if _is_linear(module)}
        targeted = {name for name in linears if self._targets(name)}
        for module in sorted(targeted - set(self.factors)):
            raise PackError(f"adapter '{self.name}': {WEIGHTS_FILE} lacks '{module}'.")
        for module in sorted(set(self.factors) - targeted):
            raise PackError(
                f"adapter '{self.name}': '{module}' is no linear of the base that its "
                f"{CONFIG_FILE} targets."
            )
        for module in self.factors:
            _check_shapes(self, module, linears[module])

    def _targets(self, module: str) -> bool:
        """PEFT's rule: a regular expression, or names that a module's path ends in."""
        targets, layers = self.config["target_modules"], self.config.get("layers_to_transform")
        if isinstance(targets, str):
            return re.fullmatch(targets, module) is not None
        if not any(module == target or module.endswith(f".{target}") for target in targets):
            return False
        number = re.search(r"\.(\d+)\.", module)
        if layers is None or number is None:
            return True
        return int(number[1]) in ([layers] if isinstance(layers, int) else layers)


def load_adapter(name: str, folder: Path) -> LoraAdapter:
    """Read a standard PEFT folder; shapes are checked when it is stacked on a model.

    Raises:
        PackError: a file that is missing or broken, a setting or a tensor that is not plain LoRA.
    """
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        tensors = load_file(folder / WEIGHTS_FILE)
    except (OSError, ValueError, SafetensorError) as error:
        raise PackError(f"adapter '{name}': {folder} cannot be read: {error}") from error
    for key in _UNSUPPORTED:
        if config.get(key):
            raise PackError(f"adapter '{name}': {CONFIG_FILE} sets {key}; only plain LoRA is run.")
    if config.get("peft_type") != "LORA" or config.get("bias", "none") != "none":
        raise PackError(f"adapter '{name}': {CONFIG_FILE} must be peft_type LORA with bias none.")
    rank = config["r"] ** (0.5 if config.get("use_rslora") else 1)
    return LoraAdapter(name, config["lora_alpha"] / rank, _factors(name, tensors), config)


def _factors(name: str, tensors: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    sides: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = _KEY.match(key)
        if not match:
            raise PackError(f"adapter '{name}': unknown tensor '{key}' in {WEIGHTS_FILE}.")
        sides.setdefault(match["module"], {})[match["side"]] = tensor
    for module, pair in sides.items():
        if set(pair) != {"A", "B"}:
            raise PackError(f"adapter '{name}': '{module}' has lora_{''.join(pair)} only.")
    return {module: (pair["A"], pair["B"]) for module, pair in sides.items()}


def mean_of_factors(adapters: Sequence[LoraAdapter]) -> LoraAdapter:
    """The soup of the published code: A and B averaged apart, (mean A)(mean B), unlike mean(B A).

    Raises:
        PackError: adapters of different ranks, targets or scalings, which have no such mean.
    """
    first, *rest = adapters
    shapes = [{m: (a.shape, b.shape) for m, (a, b) in x.factors.items()} for x in adapters]
    if any(s != shapes[0] for s in shapes) or any(x.scaling != first.scaling for x in rest):
        raise PackError("experts.soup: 'factors' needs adapters of equal rank, targets and alpha.")

    def mean(module: str, side: int) -> Tensor:
        return torch.stack([x.factors[module][side].float() for x in adapters]).mean(0)

    factors = {module: (mean(module, 0), mean(module, 1)) for module in first.factors}
    name = "+".join(x.name for x in adapters)
    return LoraAdapter(name, first.scaling, factors, first.config)


def _is_linear(module: nn.Module) -> bool:
    return hasattr(module, "in_features") and hasattr(module, "out_features")


def _check_shapes(adapter: LoraAdapter, module: str, linear: nn.Module) -> None:
    a, b = adapter.factors[module]
    rank = len(a)
    found = (tuple(a.shape), tuple(b.shape))
    width, height = int(linear.in_features), int(linear.out_features)  # type: ignore[arg-type]
    expected = ((rank, width), (height, rank))
    if found != expected:
        raise PackError(
            f"adapter '{adapter.name}': '{module}' has A and B of shapes {found}, "
            f"which do not fit the base's {expected}."
        )


def lowest_layer(adapters: Sequence[LoraAdapter], layers: int) -> int:
    """The first decoder layer that any of these touches; ``layers`` if none touches any.

    Rows that read the same text are alike below it, whatever their adapters: the shared trunk.
    """
    modules = (module for adapter in adapters for module in adapter.factors)
    found = (re.search(r"\.layers\.(\d+)\.", module) for module in modules)
    return min((int(match[1]) if match else 0 for match in found), default=layers)
