"""Stacked LoRA: every row of a batch with its own adapter, over a linear that stays a black box.

``y = base(x) + ((x @ A) * mask) @ B`` with all adapters of a linear side by side: A [in, R],
B [R, out], R the sum of their ranks. The mask [rows, 1, R] holds a row's scaling at the columns
of its adapter and 0 elsewhere, so a row without an adapter is exactly the base.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
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


class LoraStack:
    """All adapters of a model; tells every wrapped linear which one each row of the batch uses."""

    def __init__(self, adapters: Sequence[LoraAdapter], model: nn.Module, like: Tensor) -> None:
        """Check the adapters against a model.

        Args:
            adapters: any ranks, any target modules.
            model: has every targeted linear under its full name, before anything is wrapped.
            like: a tensor with the compute dtype and the device.

        Raises:
            PackError: an adapter targets a module that is absent, or whose shape differs.
        """
        for adapter in adapters:
            for module in adapter.factors:
                _check_shapes(adapter, module, _linear(model, module, adapter.name))
        self._adapters = tuple(adapters)
        self._index = {adapter.name: k for k, adapter in enumerate(adapters)}
        self._like = like
        self._rows: Tensor | None = None
        self._layouts: dict[tuple[tuple[int, float], ...], tuple[Tensor, Tensor]] = {}
        self._masks: dict[tuple[tuple[int, float], ...], Tensor] = {}

    def route(self, names: Sequence[str | None]) -> None:
        """Name each row's adapter for the next pass; None is the bare base."""
        self._masks.clear()
        self._rows = None
        if any(names):
            indices = [-1 if name is None else self._index[name] for name in names]
            self._rows = torch.tensor(indices, device=self._like.device)

    def mask(self, layout: tuple[tuple[int, float], ...]) -> Tensor | None:
        """[rows, 1, R] for columns that belong to (adapter, scaling); None: all rows are bare."""
        if self._rows is None:
            return None
        if layout not in self._masks:  # once a pass for all linears with the same columns
            owners, scalings = self._layouts[layout]
            self._masks[layout] = ((self._rows[:, None] == owners) * scalings)[:, None, :]
        return self._masks[layout]

    def wrap(self, linear: nn.Module, parts: Sequence[tuple[str, int]]) -> nn.Module:
        """Put the adapters of some linears, fused into one, on top of it.

        Args:
            linear: whatever computes them, outputs in order.
            parts: full name and output width of each.
        """
        factors, columns, start = [], list[tuple[int, float]](), 0
        for module, width in parts:
            for index, adapter in enumerate(self._adapters):
                if module in adapter.factors:
                    a, b = adapter.factors[module]
                    factors.append((a, start, b))
                    columns += [(index, adapter.scaling)] * len(a)
            start += width
        if not factors:
            return linear
        a = torch.cat([a for a, _, _ in factors]).T
        b = torch.cat([_shifted(b.T, at, start) for _, at, b in factors])
        layout = tuple(columns)
        owners, scalings = (torch.tensor(values) for values in zip(*columns, strict=True))
        self._layouts[layout] = (owners.to(self._like.device), scalings.to(self._like))
        return StackedLora(linear, self, layout, a.to(self._like), b.to(self._like))


def _shifted(b: Tensor, start: int, width: int) -> Tensor:
    """B [rank, out] as columns ``start...`` of a wider, fused output."""
    wide = b.new_zeros(len(b), width)
    wide[:, start : start + b.shape[1]] = b
    return wide


class StackedLora(nn.Module):
    """A linear layer, of whatever kind, with several adapters side by side on top."""

    def __init__(
        self,
        base: nn.Module,
        stack: LoraStack,
        layout: tuple[tuple[int, float], ...],
        a: Tensor,
        b: Tensor,
    ) -> None:
        super().__init__()
        self.base = base
        self._stack = stack
        self._layout = layout
        self.register_buffer("a", a.contiguous())
        self.register_buffer("b", b.contiguous())

    a: Tensor
    b: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """x [rows, T, in] to [rows, T, out]."""
        y: Tensor = self.base(x)
        mask = self._stack.mask(self._layout)
        if mask is None:
            return y
        return y + ((x @ self.a) * mask) @ self.b


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
