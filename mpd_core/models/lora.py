"""Stacked LoRA: every row of a batch with its own adapter, over a linear that stays a black box.

``y = base(x) + ((x @ A) * mask) @ B`` with all adapters of a linear side by side: A [in, R],
B [R, out], R the sum of their ranks. The mask [rows, 1, R] holds a row's scaling at the columns
of its adapter and 0 elsewhere, so a row without an adapter is exactly the base.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mpd_core.errors import PackError

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
_KEY = re.compile(r"^base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight$")
_UNSUPPORTED = ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern", "lora_bias")


@dataclass(frozen=True)
class LoraAdapter:
    """One adapter: module name to (A [rank, in], B [out, rank]), and its scaling."""

    name: str
    scaling: float
    factors: Mapping[str, tuple[Tensor, Tensor]]


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
    return LoraAdapter(name, config["lora_alpha"] / rank, _factors(name, tensors))


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


class LoraRouter:
    """Tells every stacked linear which adapter each row of the present batch uses."""

    def __init__(self) -> None:
        self._adapter_of_row: Tensor | None = None

    def set(self, adapter_of_row: Tensor | None) -> None:
        """Adapter index of each row, [rows], -1 for none; None if no row has one."""
        self._adapter_of_row = adapter_of_row

    def mask(self, adapter_of_column: Tensor, scaling: Tensor) -> Tensor | None:
        """[rows, 1, R] for a linear whose R columns belong to these adapters; None: all bare."""
        if self._adapter_of_row is None:
            return None
        own = self._adapter_of_row[:, None] == adapter_of_column
        return (own * scaling)[:, None, :]


class StackedLora(nn.Module):
    """A linear layer, of whatever kind, with several adapters side by side on top."""

    def __init__(self, base: nn.Module, router: LoraRouter) -> None:
        super().__init__()
        self.base = base
        self._router = router
        self.a: Tensor
        self.b: Tensor
        self.scaling: Tensor
        self.adapter_of_column: Tensor

    def stack(self, members: list[tuple[int, LoraAdapter, str]], like: Tensor) -> None:
        """Take the factors of ``(index, adapter, module name)`` for this linear."""
        pairs = [(index, adapter, *adapter.factors[module]) for index, adapter, module in members]
        columns = [
            (index, adapter.scaling) for index, adapter, a, _ in pairs for _ in range(len(a))
        ]
        owners, scalings = zip(*columns, strict=True)
        self.register_buffer("a", torch.cat([a for *_, a, _ in pairs]).T.contiguous().to(like))
        self.register_buffer("b", torch.cat([b.T for *_, b in pairs]).contiguous().to(like))
        self.register_buffer("scaling", torch.tensor(scalings).to(like))
        self.register_buffer("adapter_of_column", torch.tensor(owners, device=like.device))

    def forward(self, x: Tensor) -> Tensor:
        """x [rows, T, in] to [rows, T, out]."""
        y: Tensor = self.base(x)
        mask = self._router.mask(self.adapter_of_column, self.scaling)
        if mask is None:
            return y
        return y + ((x @ self.a) * mask) @ self.b


def stack_adapters(model: nn.Module, adapters: list[LoraAdapter], like: Tensor) -> LoraRouter:
    """Put adapters on a model in place; adapter k of the list has index k for the router.

    Args:
        model: the base; its targeted linears are wrapped.
        adapters: any ranks, any target modules.
        like: a tensor with the compute dtype and the device.

    Raises:
        PackError: an adapter targets a module that is absent, or whose shape differs.
    """
    router = LoraRouter()
    targets: dict[str, list[tuple[int, LoraAdapter, str]]] = {}
    for index, adapter in enumerate(adapters):
        for module in adapter.factors:
            targets.setdefault(module, []).append((index, adapter, module))
    for module, members in targets.items():
        linear = _linear(model, module, members[0][1].name)
        for _, adapter, _ in members:
            _check_shapes(adapter, module, linear)
        stacked = StackedLora(linear, router)
        stacked.stack(members, like)
        parent, _, child = module.rpartition(".")
        setattr(model.get_submodule(parent), child, stacked)
    return router


def _linear(model: nn.Module, module: str, adapter: str) -> nn.Module:
    try:
        linear = model.get_submodule(module)
    except AttributeError:
        linear = nn.Identity()
    if not hasattr(linear, "in_features") or not hasattr(linear, "out_features"):
        raise PackError(f"adapter '{adapter}': the base has no linear layer '{module}'.")
    return linear


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
