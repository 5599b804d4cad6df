"""The advanced settings: one line each, named as in ``Sampling`` and ``GenerationRequest``.

The names are also those of the share link and of a trace.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import gradio as gr

from mpd_core.request import MAX_SEED, Space

if TYPE_CHECKING:
    from mpd_core.ui.opening import Host

METHODS = {
    "mpd": "MPD: weights anew at every token",
    "uniform": "MPD uniform: equal weights",
    "top-1": "MPD top-1: only the expert with the largest weight",
    "static": "MPD static: the pack's best constant weights",
    "soup": "Personalized soup: adapters averaged",
    "prompting": "Preference prompting: the base, all instructions",
    "vanilla": "Vanilla prompting: the base alone",
}


def method_label(name: str) -> str:
    """A method as the page calls it."""
    if name.startswith("expert:"):
        return f"Only {name.removeprefix('expert:')}"
    if name.startswith("static:"):
        return f"MPD static: weights {name.removeprefix('static:')}"
    return METHODS.get(name, name)


def build(engine: Host) -> dict[str, Any]:
    """The controls by setting, in the order of the page."""
    d = engine.pack.spec.decode
    slider = _slider
    return {
        "method": gr.Dropdown(
            [(method_label(m), m) for m in engine.methods],
            value="mpd",
            label="Method",
            info="who writes, and how the experts' proposals become one",
            elem_id="set-method",
        ),
        "space": gr.Radio(
            list(get_args(Space)),
            value=d.space,
            label="Experts are merged in this space",
            info="probability: a weighted mean (Eq. 1); logit: a weighted product; strength: the "
            "base, moved by what experts change",
            elem_id="set-space",
        ),
        "strength": slider(
            "Strength", 0, 10, d.strength, 0.05, "of that space: how far experts move the text"
        ),
        "settled": slider(
            "Strength that stays", 0, 1, d.settled, 0.05, "share of it, in a long reply"
        ),
        "fade": slider(
            "Fade", 1, 200, d.fade, 1, "in tokens: how fast the rest of the strength goes"
        ),
        "plausibility": slider(
            "Plausibility",
            0,
            0.5,
            d.plausibility,
            0.01,
            "of that space: only tokens to which some expert, or the base, gives this share of its "
            "likeliest one's probability",
        ),
        "max_new_tokens": slider(
            "Longest reply", 1, d.max_new_tokens_limit, d.max_new_tokens, 1, "in tokens"
        ),
        "temperature": slider(
            "Temperature", 0, 2, d.temperature, 0.05, "0 always takes the likeliest token"
        ),
        "top_p": slider(
            "Top-p", 0.05, 1, d.top_p, 0.05, "draw only from the likeliest tokens of this mass"
        ),
        "repetition_penalty": slider(
            "Repetition penalty",
            1,
            2,
            d.repetition_penalty,
            0.05,
            "on words that occurred; 1: none",
        ),
        "dry_multiplier": slider(
            "Loop penalty", 0, 2, d.dry_multiplier, 0.05, "on repeating whole sequences (DRY)"
        ),
        "seed": gr.Number(
            0,
            label="Seed",
            info=f"0 to {MAX_SEED}; the same seed draws the same",
            elem_id="set-seed",
        ),
    }


def _slider(label: str, low: float, high: float, value: float, step: float, info: str) -> gr.Slider:
    """A pack's own default is always within reach."""
    return gr.Slider(min(low, value), max(high, value), value, step=step, label=label, info=info)


def describe(controls: dict[str, Any]) -> list[dict[str, Any]]:
    """What the page's JavaScript must know to read a share link: names, defaults and bounds."""
    return [
        {
            "name": name,
            "label": control.label,
            "value": control.value,
            "low": getattr(control, "minimum", None),
            "high": getattr(control, "maximum", None),
            "choices": [value for _, value in getattr(control, "choices", None) or []],
        }
        for name, control in controls.items()
    ]
