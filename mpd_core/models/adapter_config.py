"""``adapter_config.json`` as PEFT writes it: what of it is computed, harmless, or refused.

A key that is neither computed nor known to be harmless is refused by name, unless it is empty.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import nn

from mpd_core.errors import PackError, others_as, shortened
from mpd_core.models.files import check_no_pointer
from mpd_core.models.targets import by_pattern, endless, layer_after, suffix, targeted
from mpd_core.packs import complaints
from mpd_core.resources import read_settings_text

CONFIG_FILE = "adapter_config.json"

HARMLESS = frozenset(
    {
        *("auto_mapping", "base_model_name_or_path", "inference_mode", "megatron_core", "revision"),
        *("peft_version", "qalora_group_size", "runtime_config", "task_type"),
        # How it was initialised: init_lora_weights says whether that matters.
        *("corda_config", "eva_config", "loftq_config", "lora_ga_config"),
        "fan_in_fan_out",  # PEFT corrects it by the layer's type
        "lora_dropout",  # of training only
        "merge_weights",  # of PEFT before 0.4: whether to merge while evaluating
    }
)
"""Keys that do not change what an adapter computes, whatever their values."""

STARTS = frozenset({"true", "false", "none", "gaussian", "eva", "orthogonal", "mica"})
"""Values of ``init_lora_weights`` that leave the base as it is."""
CONVERTED = ("pissa", "olora", "corda", "lora_ga")
"""How those begin that change the base, and that PEFT can save as plain LoRA nevertheless."""

AGAIN = "obtain it again, whole"
MERGE = (
    "merge it into its base with PEFT's merge_and_unload and name the result under "
    "experts.checkpoints, or train plain LoRA"
)


def _compiles(expression: Callable[[str], str]) -> AfterValidator:
    """That what is made of a string is a regular expression; a list of names is none."""

    def check(value: Any) -> Any:
        try:
            if isinstance(value, str):
                re.compile(expression(value))
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"no regular expression ({error})") from None
        return value

    return AfterValidator(check)


Rank = Annotated[int, Field(gt=0, lt=2**31)]
Alpha = Annotated[float, Field(allow_inf_nan=False)]
Suffix = Annotated[str, _compiles(suffix)]
LayerPattern = Annotated[str, _compiles(layer_after)]
Names = Annotated[str | list[str], _compiles(str)]


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

    def check_ends(self, modules: Collection[str]) -> None:
        """Refuse expressions that would be matched with these names for ever.

        Raises:
            PackError: there is such a one.
        """
        names, layers = (self.target_modules, self.exclude_modules), self.layers_pattern or []
        expressions = [kind for kind in names if isinstance(kind, str)]
        expressions += map(suffix, (*(self.rank_pattern or ()), *(self.alpha_pattern or ())))
        expressions += map(layer_after, [layers] if isinstance(layers, str) else layers)
        if endless(expressions, modules):
            raise PackError(
                f"{CONFIG_FILE} has a regular expression that is matched with "
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
        names, layers = (self.target_modules, self.exclude_modules), self.layers_to_transform
        return targeted(model, *names, layers, self.layers_pattern)


def read_settings(folder: Path) -> LoraSettings:
    """Read and judge an adapter's configuration.

    Raises:
        PackError: it cannot be read, is not of LoRA, or sets what is not computed here.
    """
    file = folder / CONFIG_FILE
    if not file.is_file():
        raise PackError(
            f"{file} is not there: name a folder as PEFT's save_pretrained writes it; an adapter "
            "of another kind (GGUF, MLX) must become one."
        )
    with others_as(PackError, lambda why: f"{file} cannot be read ({why}): {AGAIN}."):
        check_no_pointer(file, PackError)
        found = json.loads(read_settings_text(file))
    if not isinstance(found, dict):
        raise PackError(f"{file} does not hold an object: save it again with PEFT.")
    _refuse_kind(file, found)
    try:
        return LoraSettings.model_validate(found)
    except ValidationError as error:
        raise PackError(
            f"{file}: {'; '.join(complaints(error))}: correct it, or save the adapter again with "
            "PEFT."
        ) from error


def _refuse_kind(file: Path, found: Mapping[str, Any]) -> None:
    """What is not plain LoRA, by the first key that says so."""
    if "peft_type" not in found:
        raise PackError(
            f"{file} has no peft_type, so it is not PEFT's: name a folder as PEFT's "
            "save_pretrained writes it; an adapter of another kind (MLX) must become one."
        )
    if found["peft_type"] != "LORA":
        kind = _short(found["peft_type"])
        raise PackError(f'{file} has peft_type {kind}, and only "LORA" is run: {MERGE}.')
    start = found.get("init_lora_weights", True)
    if str(start).lower() not in STARTS:
        converted = str(start).lower().startswith(CONVERTED)
        again = (
            "save it again with save_pretrained(..., path_initial_model_for_weight_conversion=...)"
            ", which makes plain LoRA of it, or "
        )
        raise PackError(
            f"{file} has init_lora_weights {_short(start)}, which may change the base's weights: "
            f"{again if converted else ''}{MERGE}."
        )
    computed = {*LoraSettings.model_fields, *HARMLESS, "init_lora_weights"} - {"bias"}
    for key, value in found.items():
        default = not value or (key, value) == ("bias", "none")
        if key not in computed and not default:
            raise PackError(
                f"{file} sets {_short(key)} to {_short(value)}, which is not computed here: "
                f"{MERGE}."
            )


def _short(value: Any) -> str:
    return shortened(json.dumps(value), 60)
