"""The advanced settings: method, space, and every number that a client may set.

The names are also those of the share link and of a trace.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import gradio as gr

from mpd_core.engine.plan import METHODS
from mpd_core.fields import Number
from mpd_core.request import NUMBERS, Space

if TYPE_CHECKING:
    from mpd_core.packs.schema import DecodeSpec, ExpertsSpec
    from mpd_core.ui.opening import Host


SLIDERS = {
    "strength": (0, 10, 0.05),
    "settled": (0, 1, 0.05),
    "fade": (1, 200, 1),
    "plausibility": (0, 0.5, 0.01),
    "max_new_tokens": (1, 512, 1),
    "temperature": (0, 2, 0.05),
    "top_p": (0.05, 1, 0.05),
    "repetition_penalty": (1, 2, 0.05),
    "dry_multiplier": (0, 2, 0.05),
}
"""What is usual of a number: least, most and step; one that is not here is typed."""


def method_label(name: str) -> str:
    """A method as the page calls it."""
    if name.startswith("expert:"):
        return f"Only {name.removeprefix('expert:')}"
    if name.startswith("static:"):
        return f"MPD static: weights {name.removeprefix('static:')}"
    return METHODS.get(name, name)


def build(engine: Host) -> dict[str, Any]:
    """The controls by setting, in the order of the page."""
    decode = engine.pack.spec.decode
    controls: dict[str, Any] = {
        "method": gr.Dropdown(
            [(method_label(m), m) for m in engine.methods],
            value="mpd",
            label="Method",
            info="who writes, and how the experts' proposals become one",
            elem_id="set-method",
        ),
        "space": gr.Radio(
            list(get_args(Space)),
            value=decode.space,
            label="Experts are merged in this space",
            info="probability: a weighted mean (Eq. 1); logit: a weighted product; strength: "
            f"{moved(engine.pack.spec.experts)}, moved by what experts change",
            elem_id="set-space",
        ),
    }
    return controls | {name: _control(number, decode) for name, number in NUMBERS.items()}


def moved(experts: ExpertsSpec) -> str:
    """What the space ``strength`` moves, in words."""
    if experts.prior == 0.0:
        return "the bare base"
    whole = experts.prior == 1.0
    return "the anchor of all experts" if whole else "the base with a part of the experts' anchor"


def _control(number: Number, decode: DecodeSpec) -> Any:
    """A slider over what is usual, with the pack's own default always within reach; or a field."""
    value = getattr(decode, number.name, number.default)
    if number.name not in SLIDERS:
        info = f"{number.help} {number.low} to {number.high}."
        return gr.Number(value, label=number.label, info=info, elem_id=f"set-{number.name}")
    low, high, step = SLIDERS[number.name]
    if number.name == "max_new_tokens":
        high = decode.max_new_tokens_limit
    low, high = min(low, value), max(high, value)
    return gr.Slider(low, high, value, step=step, label=number.label, info=number.help)


def describe(controls: dict[str, Any]) -> list[dict[str, Any]]:
    """What the page's JavaScript must know to read a share link: names, defaults and bounds."""
    return [_described(name, control, NUMBERS.get(name)) for name, control in controls.items()]


def _described(name: str, control: Any, number: Number | None) -> dict[str, Any]:
    """A slider's own bounds where it has some: its value could stand nowhere else."""
    low, high = (getattr(control, end, None) for end in ("minimum", "maximum"))
    return {
        "name": name,
        "label": control.label,
        "value": control.value,
        "low": number.low if number and low is None else low,
        "high": number.high if number and high is None else high,
        "whole": number is not None and number.whole,
        "choices": [value for _, value in getattr(control, "choices", None) or []],
    }
