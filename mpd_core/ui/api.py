"""``/generate``: the page's engine for programs, through gradio_client or plain HTTP."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import gradio as gr

from mpd_core.errors import MPDError
from mpd_core.request import GenerationRequest, Message
from mpd_core.trace import StepRecord, Trace
from mpd_core.ui import zerogpu
from mpd_core.ui.ask import whole
from mpd_core.ui.handlers import FRAME_SECONDS

if TYPE_CHECKING:
    from mpd_core.engine import Engine

Reply = dict[str, Any]
_MERGING = {"space": str, "strength": float, "plausibility": float}
"""How experts are merged; nothing is the pack's own way."""


def generate_function(engine: Engine, produce: zerogpu.Producer) -> Callable[..., Iterator[Reply]]:
    """The endpoint's function; its parameters follow the pack's dimensions."""
    pack = engine.pack
    parameters = _parameters(engine)
    signature = inspect.Signature(parameters, return_annotation=Iterator[Reply])

    def generate(*args: Any, **kwargs: Any) -> Iterator[Reply]:
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        try:
            yield from _stream(produce, _request(pack, dict(given.arguments)))
        except MPDError as error:
            raise gr.Error(str(error), print_exception=False) from error

    generate.__doc__ = _describe(engine)
    generate.__signature__ = signature  # type: ignore[attr-defined]
    generate.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": Reply}
    return generate


def _parameters(engine: Engine) -> list[inspect.Parameter]:
    decode, dimensions = engine.pack.spec.decode, engine.pack.space.dimensions
    fields: list[tuple[str, type, Any]] = [
        ("instruction", str, inspect.Parameter.empty),
        *((dimension.name, str, "") for dimension in dimensions),
        ("method", str, "mpd"),
        ("max_new_tokens", int, decode.max_new_tokens),
        ("temperature", float, decode.temperature),
        ("top_p", float, decode.top_p),
        ("seed", int, 0),
        *((name, kind, None) for name, kind in _MERGING.items()),
    ]
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return [inspect.Parameter(n, kind, default=d, annotation=t) for n, t, d in fields]


def _describe(engine: Engine) -> str:
    choices = "; ".join(
        f"{dimension.name}: {', '.join(pole.name for pole in dimension.poles)}"
        for dimension in engine.pack.space.dimensions
    )
    return (
        "Stream one reply. Each value but the last is {text, steps, done: false}; the last is the "
        f"whole trace. Poles by dimension, empty to leave one out: {choices}. "
        f"Methods: {', '.join(engine.methods)}."
    )


def _request(pack: Any, given: dict[str, Any]) -> GenerationRequest:
    poles = {dimension.name: given[dimension.name] for dimension in pack.space.dimensions}
    preference = pack.space.select(poles)
    merging = pack.merging(preference, *(given[name] for name in _MERGING))
    return GenerationRequest(
        messages=(Message("user", given["instruction"]),),
        preference=preference.code,
        method=given["method"],
        **merging,
        sampling=pack.spec.decode.sampling(
            max_new_tokens=whole("max_new_tokens", given["max_new_tokens"]),
            temperature=given["temperature"],
            top_p=given["top_p"],
            seed=whole("seed", given["seed"]),
        ),
    )


def _stream(produce: zerogpu.Producer, request: GenerationRequest) -> Iterator[Reply]:
    steps: list[StepRecord] = []
    shown = 0.0
    for piece in produce(request):
        if isinstance(piece, Trace):
            yield piece.to_dict()
        elif isinstance(piece, StepRecord):
            steps.append(piece)
            if time.monotonic() - shown > FRAME_SECONDS:
                shown = time.monotonic()
                text = "".join(step.text for step in steps)
                yield {"text": text, "steps": len(steps), "done": False}
