"""LoRA adapters as files: read from PEFT's standard folders, checked to the last tensor."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from mpd_core.errors import PackError, about, others_as
from mpd_core.method import soup
from mpd_core.models.adapter_config import AGAIN, CONFIG_FILE, MERGE, LoraSettings, read_settings
from mpd_core.models.blocks import weight_of_blocks
from mpd_core.models.files import check_no_pointer
from mpd_core.models.numbers import is_finite, is_held
from mpd_core.models.targets import linear_shape

WEIGHTS_FILE = "adapter_model.safetensors"
OTHER_BASE = "use the base that it was trained on"
_PREFIX = r"^base_model\.model\.(?P<module>.+)"
_FACTOR = re.compile(_PREFIX + r"\.lora_(?P<side>[AB])\.weight$")
_COPY = re.compile(_PREFIX + r"\.(?P<parameter>weight|bias)$")
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_KNOWN = {
    "lora_embedding_": "adapts the embeddings",
    "lora_magnitude_vector": "is of DoRA",
    "modules_to_save": "is of a module that was saved whole",
    "lora_B.bias": "is a bias of LoRA's own",
}
"""Parts of keys that PEFT writes, but not for plain LoRA."""

Factors = Mapping[str, tuple[Tensor, Tensor]]
"""Module name to A [rank, in] and B [out, rank]."""
Copies = Mapping[str, tuple[Path, str]]
"""By names in the base, file and key of the base's own parameters, which PEFT saves beside the
factors of an output layer."""


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
        for module in sorted(targeted):
            self._check_module(module, model.get_submodule(module))
        for module in sorted(set(self.factors) - targeted):
            raise PackError(
                f"'{module}' is no linear of the base that its {CONFIG_FILE} targets: {OTHER_BASE}."
            )
        self._check_copies(model)

    def _check_module(self, module: str, found: nn.Module) -> None:
        shape = linear_shape(found)
        if shape is None:
            raise PackError(
                f"{CONFIG_FILE} targets '{module}', a {type(found).__name__}, and only linears are "
                f"computed: {MERGE}."
            )
        if module not in self.factors:
            raise PackError(
                f"{WEIGHTS_FILE} lacks '{module}', which its {CONFIG_FILE} targets: {OTHER_BASE}, "
                f"or {AGAIN}."
            )
        shapes, rank = (
            tuple(tuple(f.shape) for f in self.factors[module]),
            self.settings.rank(module),
        )
        if shapes != (expected := ((rank, shape[0]), (shape[1], rank))):
            raise PackError(
                f"'{module}' has A and B of shapes {shapes}, which do not fit the base's {expected}"
                f", with the rank that {CONFIG_FILE} names: {OTHER_BASE}."
            )

    def _check_copies(self, model: nn.Module) -> None:
        """PEFT would put these in the base's place: they must be what stands there."""
        own: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
        for name, (file, key) in self.copies.items():
            with safe_open(file, "pt") as tensors:  # one by one: they may be large
                copy = tensors.get_tensor(key)
            held = own[name] if name in own else weight_of_blocks(model, name)
            if held is None or not torch.equal(copy.to(held), held):
                raise PackError(
                    f"{WEIGHTS_FILE} holds a '{name}' that is not what the base has: {MERGE}."
                )

    def check_held(self, factors: torch.dtype, gates: torch.dtype) -> None:
        """Whether the types of factors and of scaled weights hold this adapter's numbers.

        Raises:
            PackError: not even to 1%.
        """
        for module, pair in self.factors.items():
            for side, tensor in zip("AB", pair, strict=True):
                _check_close(f"lora_{side} of '{module}'", tensor, factors)
        _check_close("its scaling", torch.tensor(self.scaling, dtype=torch.float64), gates)


def _check_close(what: str, tensor: Tensor, dtype: torch.dtype) -> None:
    if not is_held(tensor, dtype):
        remedy = 'set precision = "fp32" under [base] in the pack, or "bf16" on a GPU'
        if dtype is torch.float32:
            remedy = f"correct lora_alpha in {CONFIG_FILE}, or use an earlier checkpoint"
        largest = f"largest number {float(tensor.abs().max()):.3g}"
        raise PackError(f"{str(dtype)[6:]} cannot hold {what} ({largest}): {remedy}.")


def load_adapter(name: str, folder: Path) -> LoraAdapter:
    """Read a standard PEFT folder; shapes are checked when it is stacked on a model.

    Raises:
        PackError: a file that is missing or broken, a setting or a tensor that is not plain LoRA.
    """
    with about(f"adapter '{name}'"):
        settings = read_settings(folder)
        factors, copies = _read_weights(folder / WEIGHTS_FILE)
        settings.check_ends(set(factors))
    scalings = {module: settings.scaling(module) for module in factors}
    if len(set(scalings.values())) <= 1:
        return LoraAdapter(name, next(iter(scalings.values()), 1.0), factors, settings, copies)
    scaled = {m: (a, b.float() * scalings[m]) for m, (a, b) in factors.items()}
    return LoraAdapter(name, 1.0, scaled, settings, copies)


def _read_weights(file: Path) -> tuple[Factors, Copies]:
    """An adapter's factors, all finite, in the file's type or fp32; and what lies beside them.

    Raises:
        PackError: a file that is missing or broken, or tensors that are not plain LoRA's.
    """
    sides: dict[str, dict[str, Tensor]] = {}
    beside: dict[str, tuple[Path, str]] = {}
    with others_as(PackError, lambda why: f"{file} cannot be read ({why}): {AGAIN}."):
        check_no_pointer(file, PackError)
        with safe_open(file, "pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118
                if match := _FACTOR.match(key):
                    side = _checked(key, tensors.get_tensor(key))
                    sides.setdefault(match["module"], {})[match["side"]] = side
                elif (match := _COPY.match(key)) and not any(p in key for p in (*_KNOWN, "lora_")):
                    module = match["module"].removesuffix(".base_layer")
                    beside[f"{module}.{match['parameter']}"] = file, key
                else:
                    raise PackError(_unknown(key))
    for module, pair in sides.items():
        if set(pair) != {"A", "B"}:
            raise PackError(f"'{module}' has lora_{''.join(pair)} only in {WEIGHTS_FILE}: {AGAIN}.")
    return {module: (pair["A"], pair["B"]) for module, pair in sides.items()}, beside


def _checked(key: str, tensor: Tensor) -> Tensor:
    if tensor.dtype not in _FLOATS:
        raise PackError(
            f"'{key}' in {WEIGHTS_FILE} is {str(tensor.dtype)[6:]}: save it again as fp32, fp16 or "
            "bf16."
        )
    tensor = tensor.float() if tensor.dtype is torch.float64 else tensor
    if not is_finite(tensor):
        raise PackError(
            f"'{key}' in {WEIGHTS_FILE} holds numbers that are not finite: use an earlier "
            "checkpoint of its training."
        )
    return tensor


def _unknown(key: str) -> str:
    for part, what in _KNOWN.items():
        if part in key:
            return f"'{key}' in {WEIGHTS_FILE} {what}, which is not computed: {MERGE}."
    return (
        f"unknown tensor '{key}' in {WEIGHTS_FILE} (factors are named base_model.model.MODULE"
        ".lora_A.weight there): save it again with PEFT's save_pretrained."
    )


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
