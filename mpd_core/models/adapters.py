"""LoRA adapters as files: read from PEFT's standard folders, checked to the last tensor."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from mpd_core.errors import PackError, about
from mpd_core.method import soup
from mpd_core.models.adapter_config import AGAIN, CONFIG_FILE, MERGE, LoraSettings, read_settings
from mpd_core.models.adapter_weights import WEIGHTS_FILE as WEIGHTS_FILE
from mpd_core.models.adapter_weights import Copies, Factors, read_copies, read_weights
from mpd_core.models.blocks import weight_of_blocks
from mpd_core.models.numbers import is_held
from mpd_core.models.targets import linear_shape

OTHER_BASE = "use the base that it was trained on"


@dataclass(frozen=True)
class LoraAdapter:
    """One adapter: module name to (A [rank, in], B [out, rank]), and what it targets.

    Attributes:
        name: of the adapter.
        scaling: of all B A; where modules differ, it is 1 and their B are scaled already.
        factors: in the type of the file, at most fp32.
        settings: what its configuration says.
        copies: of the base's parameters, which lie beside the factors.
    """

    name: str
    scaling: float
    factors: Factors
    settings: LoraSettings
    copies: Copies

    def to(self, dtype: torch.dtype) -> LoraAdapter:
        """The same with its factors in another type."""
        factors = {module: (a.to(dtype), b.to(dtype)) for module, (a, b) in self.factors.items()}
        return replace(self, factors=factors)

    def check(self, model: nn.Module) -> None:
        """Hold the adapter against a model.

        Raises:
            PackError: a target that is no linear or without tensors, tensors without a target,
                shapes that differ, or parameters of the base that are not the model's.
        """
        self.settings.check_ends({module for module, _ in model.named_modules()})
        targeted = self.settings.targets(model)
        if not targeted:
            raise PackError(
                f"{CONFIG_FILE} targets no module of {type(model).__name__}: name its linears in "
                "target_modules."
            )
        for module in sorted(targeted - set(self.factors)):
            self._check_is_linear(module, model.get_submodule(module))
            raise PackError(
                f"{WEIGHTS_FILE} lacks '{module}', which its {CONFIG_FILE} targets: {OTHER_BASE}, "
                f"or {AGAIN}."
            )
        for module in sorted(set(self.factors) - targeted):
            raise PackError(
                f"'{module}' is no linear of the base that its {CONFIG_FILE} targets: {OTHER_BASE}."
            )
        for module in self.factors:
            self._check_is_linear(module, model.get_submodule(module))
            self._check_shapes(module, model.get_submodule(module))
        self._check_copies(model)

    def check_held(self, factors: torch.dtype, gates: torch.dtype) -> None:
        """Whether the types of factors and of scaled weights hold this adapter's numbers.

        Raises:
            PackError: not even to 1%.
        """
        for module, pair in self.factors.items():
            for side, tensor in zip("AB", pair, strict=True):
                self._check_close(f"lora_{side} of '{module}'", tensor, factors)
        self._check_close("its scaling", torch.tensor(self.scaling, dtype=torch.float64), gates)

    def _check_close(self, what: str, tensor: Tensor, dtype: torch.dtype) -> None:
        if not is_held(tensor, dtype):
            remedy = 'set precision = "fp32" under [base] in the pack, or "bf16" on a GPU'
            if dtype is torch.float32:
                remedy = f"correct lora_alpha in {CONFIG_FILE}, or use an earlier checkpoint"
            largest = f"largest number {float(tensor.abs().max()):.3g}"
            raise PackError(f"{str(dtype)[6:]} cannot hold {what} ({largest}): {remedy}.")

    def _check_is_linear(self, module: str, found: nn.Module) -> None:
        if linear_shape(found) is None:
            raise PackError(
                f"{CONFIG_FILE} targets '{module}', a {type(found).__name__}, and only linears are "
                f"computed: {MERGE}."
            )

    def _check_shapes(self, module: str, linear: nn.Module) -> None:
        found = tuple(tuple(factor.shape) for factor in self.factors[module])
        width, height = linear_shape(linear) or (0, 0)
        rank = self.settings.rank(module)
        expected = ((rank, width), (height, rank))
        if found != expected:
            raise PackError(
                f"'{module}' has A and B of shapes {found}, which do not fit the base's {expected}"
                f", with the rank that {CONFIG_FILE} names: {OTHER_BASE}."
            )

    def _check_copies(self, model: nn.Module) -> None:
        """PEFT would put these in the base's place: they must be what stands there."""
        own: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
        for name, copy in read_copies(self.copies):
            held = own[name] if name in own else weight_of_blocks(model, name)
            if held is None or not torch.equal(copy.to(held), held):
                raise PackError(
                    f"{WEIGHTS_FILE} holds a '{name}' that is not what the base has: {MERGE}."
                )


def load_adapter(name: str, folder: Path) -> LoraAdapter:
    """Read a standard PEFT folder; shapes are checked when it is stacked on a model.

    Raises:
        PackError: a file that is missing or broken, a setting or a tensor that is not plain LoRA.
    """
    with about(f"adapter '{name}'"):
        settings = read_settings(folder)
        factors, copies = read_weights(folder)
        settings.check_ends(set(factors))
    scaling, factors = _scaled(settings, factors)
    return LoraAdapter(name, scaling, factors, settings, copies)


def _scaled(settings: LoraSettings, factors: Factors) -> tuple[float, Factors]:
    """One scaling for all modules, or 1 and B that are scaled each by its own."""
    scalings = {module: settings.scaling(module) for module in factors}
    if len(set(scalings.values())) <= 1:
        return next(iter(scalings.values()), 1.0), factors
    return 1.0, {m: (a, b.float() * scalings[m]) for m, (a, b) in factors.items()}


def mean_of_factors(adapters: Sequence[LoraAdapter]) -> LoraAdapter:
    """A soup of adapters as one adapter, see ``method.soup``.

    Raises:
        PackError: adapters of different ranks, targets or scalings, which have no such mean.
    """
    first, *rest = adapters
    shapes = [
        {m: (a.shape, b.shape, x.settings.scaling(m)) for m, (a, b) in x.factors.items()}
        for x in adapters
    ]
    if any(s != shapes[0] for s in shapes) or any(x.scaling != first.scaling for x in rest):
        raise PackError("experts.soup: 'factors' needs adapters of equal rank, targets and alpha.")

    factors = {m: soup.mean_of_factors([x.factors[m] for x in adapters]) for m in first.factors}
    return replace(first, name="+".join(x.name for x in adapters), factors=factors)


def lowest_layer(adapters: Sequence[LoraAdapter], layers: int) -> int:
    """The first decoder layer that any of these touches; ``layers`` if none touches any.

    Rows that read the same text are alike below it, whatever their adapters: the shared trunk.
    """
    modules = {module for adapter in adapters for module in adapter.factors} - {"lm_head"}
    found = (re.search(r"\.layers\.(\d+)\.", module) for module in modules)
    return min((int(match[1]) if match else 0 for match in found), default=layers)
