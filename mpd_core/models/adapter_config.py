"""``adapter_config.json`` as PEFT writes it: what of it is computed, harmless, or refused.

A key that is neither computed nor known to be harmless is refused by name, unless it is empty.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import nn

from mpd_core.errors import PackError
from mpd_core.models.expressions import endless
from mpd_core.models.targets import Layers, by_pattern, layer_after, suffix, targeted
from mpd_core.packs import complaints
from mpd_core.resources import read_settings_text

CONFIG_FILE = "adapter_config.json"
LFS = b"version https://git-lfs"

HARMLESS = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "corda_config",  # how it was initialised: init_lora_weights says whether that matters
        "eva_config",
        "fan_in_fan_out",  # PEFT corrects it by the layer's type
        "inference_mode",
        "loftq_config",
        "lora_dropout",  # of training only
        "lora_ga_config",
        "megatron_core",
        "merge_weights",  # of PEFT before 0.4: whether to merge while evaluating
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
        "task_type",
    }
)
"""Keys that do not change what an adapter computes, whatever their values."""

STARTS = frozenset({"true", "false", "none", "gaussian", "eva", "orthogonal", "mica"})
"""Values of ``init_lora_weights`` that leave the base as it is."""
CONVERTED = ("pissa", "olora", "corda", "lora_ga")
"""How those begin that change the base, and that PEFT can save as plain LoRA nevertheless."""

MERGE = (
    "merge it into its base with PEFT's merge_and_unload and name the result under "
    "experts.checkpoints, or train plain LoRA"
)


def _check_expression(expression: str) -> None:
    try:
        re.compile(expression)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"no regular expression ({error})") from None


def _suffix_pattern(value: str) -> str:
    _check_expression(suffix(value))
    return value


def _layer_pattern(value: str) -> str:
    _check_expression(layer_after(value))
    return value


def _names_or_pattern(value: str | list[str]) -> str | list[str]:
    if isinstance(value, str):
        _check_expression(value)
    return value


Rank = Annotated[int, Field(gt=0, lt=2**31)]
Alpha = Annotated[float, Field(allow_inf_nan=False)]
Suffix = Annotated[str, AfterValidator(_suffix_pattern)]
LayerPattern = Annotated[str, AfterValidator(_layer_pattern)]
Names = Annotated[str | list[str], AfterValidator(_names_or_pattern)]


class LoraSettings(BaseModel):
    """The keys that are computed, with PEFT's defaults; other keys are in ``model_extra``."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    peft_type: Literal["LORA"]
    bias: Literal["none"] | None = "none"
    r: Rank = 8
    lora_alpha: Alpha = 8.0
    use_rslora: bool | None = False
    rank_pattern: dict[Suffix, Rank] | None = None
    alpha_pattern: dict[Suffix, Alpha] | None = None
    target_modules: Names | None = None
    exclude_modules: Names | None = None
    layers_to_transform: int | list[int] | None = None
    layers_pattern: LayerPattern | list[LayerPattern] | None = None

    @model_validator(mode="after")
    def _layers_go_with_names(self) -> LoraSettings:
        layers = self.layers_to_transform is not None
        if isinstance(self.target_modules, str) and layers:
            raise ValueError("layers_to_transform needs target_modules that are a list")
        if self.layers_pattern and not layers:
            raise ValueError("layers_pattern needs layers_to_transform")
        return self

    def check_ends(self, name: str, modules: Collection[str]) -> None:
        """Refuse expressions that would be matched with these names for ever.

        Raises:
            PackError: there is such a one.
        """
        kinds = [self.target_modules, self.exclude_modules]
        patterns = [*(self.rank_pattern or ()), *(self.alpha_pattern or ())]
        layers = self.layers_pattern or []
        expressions = [
            *(kind for kind in kinds if isinstance(kind, str)),
            *map(suffix, patterns),
            *map(layer_after, [layers] if isinstance(layers, str) else layers),
        ]
        if endless(expressions, modules):
            raise PackError(
                f"adapter '{name}': {CONFIG_FILE} has a regular expression that is matched with "
                "the base's names without an end: correct it, or name the modules in a list."
            )

    def rank(self, module: str) -> int:
        """Rows of a module's A."""
        return by_pattern(self.rank_pattern, module, self.r)

    def scaling(self, module: str) -> float:
        """What B A is multiplied with."""
        rank, alpha = self.rank(module), by_pattern(self.alpha_pattern, module, self.lora_alpha)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)

    def targets(self, model: nn.Module) -> set[str]:
        """Full names of the model's modules that PEFT would adapt."""
        layers = Layers(self.layers_to_transform, self.layers_pattern)
        return targeted(model, self.target_modules, self.exclude_modules, layers)


def read_settings(name: str, folder: Path) -> LoraSettings:
    """Read and judge an adapter's configuration.

    Raises:
        PackError: it cannot be read, is not of LoRA, or sets what is not computed here.
    """
    file = folder / CONFIG_FILE
    if not file.is_file():
        raise PackError(
            f"adapter '{name}': {file} is not there: name a folder as PEFT's "
            "save_pretrained writes it; an adapter of another kind (GGUF, MLX) must become one."
        )
    try:
        text = read_settings_text(file)
        if text.startswith(LFS.decode()):
            raise PackError(lfs_complaint(name, file))
        found = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise PackError(
            f"adapter '{name}': {file} cannot be read ({error}): obtain it again, whole."
        ) from error
    if not isinstance(found, dict):
        raise PackError(
            f"adapter '{name}': {file} does not hold an object: save it again with PEFT."
        )
    _refuse_kind(name, file, found)
    try:
        settings = LoraSettings.model_validate(found)
    except ValidationError as error:
        raise PackError(
            f"adapter '{name}': {file}: {'; '.join(complaints(error))}: correct it, or save the "
            "adapter again with PEFT."
        ) from error
    return settings


def _refuse_kind(name: str, file: Path, found: Mapping[str, Any]) -> None:
    """What is not plain LoRA, by the first key that says so."""
    if "peft_type" not in found:
        raise PackError(
            f"adapter '{name}': {file} has no peft_type, so it is not PEFT's: name a folder as "
            "PEFT's save_pretrained writes it; an adapter of another kind (MLX) must become one."
        )
    if found["peft_type"] != "LORA":
        kind = _short(found["peft_type"])
        raise PackError(
            f"adapter '{name}': {file} has peft_type {kind}, and only \"LORA\" is run: {MERGE}."
        )
    start = found.get("init_lora_weights", True)
    if str(start).lower() not in STARTS:
        converted = str(start).lower().startswith(CONVERTED)
        again = (
            "save it again with save_pretrained(..., path_initial_model_for_weight_conversion=...)"
            ", which makes plain LoRA of it, or "
        )
        raise PackError(
            f"adapter '{name}': {file} has init_lora_weights {_short(start)}, which may change the "
            f"base's weights: {again if converted else ''}{MERGE}."
        )
    computed = {*LoraSettings.model_fields, *HARMLESS, "init_lora_weights"} - {"bias"}
    for key, value in found.items():
        default = not value or (key, value) == ("bias", "none")
        if key not in computed and not default:
            raise PackError(
                f"adapter '{name}': {file} sets {_short(key)} to {_short(value)}, which is not "
                f"computed here: {MERGE}."
            )


def lfs_complaint(name: str, file: Path) -> str:
    """What to say of a file that only stands for another one."""
    return (
        f"adapter '{name}': {file} is a git-lfs pointer, not the file itself: run git lfs pull "
        "where it was cloned, or download it again."
    )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:59] + "…"
