"""Which modules of a model an adapter's configuration means: PEFT's rules, as of 0.21.

``check_target_module_exists`` and ``get_pattern_key`` there; a test holds these against them. Rules
may be regular expressions of strangers, some of which never come to an end: see ``endless``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from torch import nn
from transformers.pytorch_utils import Conv1D

from mpd_core import apart
from mpd_core.models.blocks import BlockLinear

ALL_LINEAR = "all-linear"
LAYER = r".*?\.[^.]*\.(?P<number>\d+)\."
"""The first number that stands within a module's name, for its layer's."""

FEW = 3
"""So many repetitions of names of some dozens of letters end soon, if none stands in another."""
PATIENCE_S = 10.0
"""Seconds of processor time allowed for all names of a model; good expressions take far less."""
_TRIAL = """
import json, re, sys
expressions, names = json.load(sys.stdin)
for expression in map(re.compile, expressions):
    for name in names:
        expression.match(name), expression.fullmatch(name)
"""

T = TypeVar("T")
Names = str | Collection[str]
"""A regular expression for the whole name, or names that it is or ends in."""


def layer_after(pattern: str) -> str:
    """A regular expression for the first layer's number that stands after a pattern."""
    return rf"(?:^|.*?\.){pattern}\.(?P<number>\d+)\."


def suffix(pattern: str) -> str:
    """A regular expression for names that end in a pattern."""
    return rf"(.*\.)?({pattern})$"


def by_pattern(patterns: Mapping[str, T] | None, module: str, default: T) -> T:
    """The value of the first pattern that a module's name ends in."""
    for pattern, value in (patterns or {}).items():
        if re.match(suffix(pattern), module):
            return value
    return default


def targeted(
    model: Any,
    targets: Names | None,
    excluded: Names | None,
    layers: int | list[int] | None,
    patterns: str | list[str] | None,
) -> set[str]:
    """Full names of a model's modules that are meant.

    Args:
        model: of transformers.
        targets: ``all-linear`` for all linears but the output layer; None for what PEFT takes for
            this kind of model, nothing if it knows none.
        excluded: these never.
        layers: what names in a list are limited to, unless they are written out in full; None or
            none: nothing.
        patterns: what holds these layers, as regular expressions; anything if there is none.
    """
    modules = [(name, module) for name, module in model.named_modules() if name]
    if targets is None:
        from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as USUAL

        targets = USUAL.get(model.config.model_type, ())
    elif isinstance(targets, str) and targets.lower() == ALL_LINEAR:
        output = model.get_output_embeddings()
        targets = [n for n, module in modules if linear_shape(module) and module is not output]

    numbers = [layers] if isinstance(layers, int) else layers
    holders = ([patterns] if isinstance(patterns, str) else patterns) if patterns else []

    def meant(module: str) -> bool:
        if excluded and _is_named(module, excluded):
            return False
        if isinstance(targets, str) or module in targets:
            return _is_named(module, targets)
        return _is_named(module, targets) and (not numbers or _layer(module, holders) in numbers)

    return {module for module, _ in modules if meant(module)}


def _layer(module: str, holders: list[str]) -> int | None:
    """The number of the layer that a module is in."""
    for expression in map(layer_after, holders) if holders else [LAYER]:
        if match := re.match(expression, module):
            return int(match["number"])
    return None


def linear_shape(module: nn.Module) -> tuple[int, int] | None:
    """Inputs and outputs of a linear of whatever kind; None if it is not one."""
    if isinstance(module, Conv1D):  # GPT-2's, with its weight the other way round
        return int(module.nx), int(module.nf)
    if isinstance(module, (nn.Linear, BlockLinear)):
        return int(module.in_features), int(module.out_features)
    return None


def _is_named(module: str, names: Names) -> bool:
    if isinstance(names, str):
        return re.fullmatch(names, module) is not None
    return module in names or any(module.endswith(f".{name}") for name in names)


def endless(expressions: Collection[str], names: Collection[str]) -> bool:
    """Whether matching these expressions with these names takes too long to be waited for.

    Repetitions in repetitions, as in ``(a+)+b``, can double a match's time with each letter, and
    Python cannot break one off: expressions that might are matched in a process of their own.
    """
    doubtful = sorted({expression for expression in expressions if not _ends(expression)})
    return bool(doubtful) and not apart.ends(_TRIAL, [doubtful, sorted(names)], PATIENCE_S)


def _ends(expression: str) -> bool:
    """Whether it is plain to see: few repetitions, and none of a group."""
    return len(re.findall(r"[*+{]", expression)) <= FEW and not re.search(r"\)[*+{]", expression)
