"""Stacked LoRA: every row of a batch with its own adapter, over a linear that stays a black box.

``y = base(x) + ((x @ A) * mask) @ B`` with the adapters of a linear side by side: A [in, R],
B [R, out], scaled, R the sum of their ranks. The mask [rows, 1, R] holds a row's weight at the
columns of its adapters and 0 elsewhere, so a row without an adapter is exactly the base.
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


Mix = tuple[tuple[str, float], ...]
"""A row's adapters and their weights: () is the bare base, (("a", 1.0),) one adapter, and n of
weight 1/n are the mean of the products B A, a Personalized Soup without merging anything. A name
such as "a+b" is the adapter whose A and B are the means of theirs, made when first asked for."""


@dataclass(frozen=True)
class _Block:
    """One adapter's part of a stacked linear: A [in, r], B [r, out], scaling and index."""

    adapter: int
    scaling: float
    a: Tensor
    b: Tensor


class LoraStack:
    """All adapters of a model; tells every wrapped linear which ones each row of the batch uses.

    Only adapters that live rows use take part in a pass: the side-by-side matrices are laid out
    anew when that set changes, which is when a request joins or leaves.
    """

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
        self._adapters = list(adapters)
        self._index = {adapter.name: k for k, adapter in enumerate(adapters)}
        self._like = like
        self._wrapped: list[StackedLora] = []
        self._gates: Tensor | None = None
        self._masks: dict[tuple[int, ...], Tensor] = {}
        self.in_use: tuple[int, ...] = ()
        """Adapters that are laid out; a pass may use fewer."""
        self.active = False
        """Whether any row of the present pass has an adapter."""

    def route(self, rows: Sequence[Mix]) -> None:
        """Name each row's adapters for the next pass."""
        self._masks.clear()
        used = self._indices(rows)
        self.in_use = self.in_use if used <= set(self.in_use) else tuple({*used, *self.in_use})
        self.active = bool(used)
        if self.active:
            gates = torch.zeros(len(rows), len(self._adapters))
            for row, mix in enumerate(rows):
                for name, weight in mix:
                    gates[row, self._index[name]] = weight
            self._gates = gates.to(self._like)

    def keep(self, rows: Sequence[Mix]) -> None:
        """Let go of adapters that none of these rows uses."""
        self.in_use = tuple(self._indices(rows))

    def _indices(self, rows: Sequence[Mix]) -> set[int]:
        return {self._find(name) for mix in rows for name, _ in mix}

    def _find(self, name: str) -> int:
        if name not in self._index:
            adapter = mean_of_factors([self._adapters[self._index[n]] for n in name.split("+")])
            self._index[name] = len(self._adapters)
            self._adapters.append(adapter)
            for stacked in self._wrapped:
                stacked.add(self._index[name], adapter, self._like)
        return self._index[name]

    def mask(self, columns: tuple[int, ...]) -> Tensor:
        """[rows, 1, R]: each row's weight at columns that belong to these adapters."""
        assert self._gates is not None
        if columns not in self._masks:  # once a pass for all linears with the same columns
            self._masks[columns] = self._gates[:, list(columns)][:, None, :]
        return self._masks[columns]

    def wrap(self, linear: nn.Module, parts: Sequence[tuple[str, int]]) -> nn.Module:
        """Put the adapters of some linears, fused into one, on top of it.

        Args:
            linear: whatever computes them, outputs in order.
            parts: full name and output width of each.
        """
        stacked = StackedLora(linear, self, parts)
        for index, adapter in enumerate(self._adapters):
            stacked.add(index, adapter, self._like)
        if stacked.empty:
            return linear
        self._wrapped.append(stacked)
        return stacked


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
    return LoraAdapter("+".join(x.name for x in adapters), first.scaling, factors)


def _shifted(b: Tensor, start: int, width: int) -> Tensor:
    """B [r, out] as columns ``start...`` of a wider, fused output."""
    wide = b.new_zeros(len(b), width)
    wide[:, start : start + b.shape[1]] = b
    return wide


class StackedLora(nn.Module):
    """A linear layer, of whatever kind, with several adapters side by side on top."""

    def __init__(self, base: nn.Module, stack: LoraStack, parts: Sequence[tuple[str, int]]) -> None:
        super().__init__()
        self.base = base
        self._stack = stack
        self._parts = parts
        self._blocks: list[_Block] = []
        self._laid_out: tuple[int, ...] | None = None
        self._columns: tuple[int, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether no adapter targets any of its parts."""
        return not self._blocks

    def add(self, index: int, adapter: LoraAdapter, like: Tensor) -> None:
        """Take an adapter's factors for these parts, if it has any."""
        start, width = 0, sum(part for _, part in self._parts)
        for module, part in self._parts:
            if module in adapter.factors:
                a, b = (factor.to(like) for factor in adapter.factors[module])
                self._blocks.append(
                    _Block(index, adapter.scaling, a.T, _shifted(b.T, start, width))
                )
            start += part

    def forward(self, x: Tensor) -> Tensor:
        """x [rows, T, in] to [rows, T, out]."""
        y: Tensor = self.base(x)
        if not self._stack.active:
            return y
        if self._laid_out != self._stack.in_use:
            self._lay_out(self._stack.in_use)
        if not self._columns:
            return y
        return y + ((x @ self._a) * self._stack.mask(self._columns)) @ self._b

    def _lay_out(self, in_use: tuple[int, ...]) -> None:
        blocks = [block for block in self._blocks if block.adapter in in_use]
        self._laid_out = in_use
        self._columns = tuple(block.adapter for block in blocks for _ in range(block.a.shape[1]))
        if blocks:
            self._a = torch.cat([block.a for block in blocks], dim=1)
            self._b = torch.cat([block.b * block.scaling for block in blocks])


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
