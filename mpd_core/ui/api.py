"""``/generate``: the page's engine for programs, through gradio_client or plain HTTP."""

from __future__ import annotations

import inspect
import keyword
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, get_args

import gradio as gr
from gradio.components.api_component import Api

from mpd_core.errors import MPDError, RequestError
from mpd_core.method.preferences import Dimension
from mpd_core.request import NUMBERS, SHIFTING, GenerationRequest, Message, Space
from mpd_core.trace import StepRecord, Trace
from mpd_core.ui import zerogpu
from mpd_core.ui.ask import branch, whole
from mpd_core.ui.handlers import FRAME_SECONDS, together
from mpd_core.ui.runs import Run

if TYPE_CHECKING:
    from mpd_core.packs import Pack
    from mpd_core.ui.opening import Host

Reply = dict[str, Any]
METHOD = "mpd"
FIRST = ("max_new_tokens", "temperature", "top_p", "seed")
"""Settings that programs may give by position; those that came later stand behind them."""
CLIENT = ("self", "api_name", "fn_index", "headers", "result_callbacks")
"""What ``gradio_client`` takes for itself."""


class Page(gr.Blocks):  # type: ignore[misc]
    """A page whose endpoints fill in what a call over plain HTTP leaves out at its end.

    ``gradio_client`` does so itself, so programs of either kind go on working when an endpoint gets
    another parameter.
    """

    async def preprocess_data(
        self, block_fn: Any, inputs: list[Any], *rest: Any, **more: Any
    ) -> Any:
        most = len(block_fn.inputs)
        ours = any(isinstance(block, Api) for block in block_fn.inputs)
        if ours and len(inputs) > most:  # Gradio drops what it has no place for
            said = f"{len(inputs)} values came, and there are {most} arguments: leave some out."
            raise gr.Error(said, print_exception=False)
        absent = block_fn.inputs[len(inputs) :]
        if all(isinstance(block, Api) for block in absent):
            inputs = [*inputs, *(block.value for block in absent)]
        return await super().preprocess_data(block_fn, inputs, *rest, **more)

    def get_config_file(self) -> Any:
        """Without Gradio's heartbeat: a connection for each open tab, of which a browser has six.

        It only tells when a session's State can go before its turn; ours are few and small.
        """
        return {**super().get_config_file(), "connect_heartbeat": False}


def generate_function(engine: Host, produce: zerogpu.Producer) -> Callable[..., Iterator[Reply]]:
    """The endpoint's function; its parameters follow the pack's dimensions."""
    pack = engine.pack
    poles = dict(zip(_parameter_names(pack), pack.space.dimensions, strict=True))
    given = {
        "instruction": (str, inspect.Parameter.empty),
        **dict.fromkeys(poles, (str, "")),
        **_settings(pack),
    }
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [
        inspect.Parameter(name, kind, default=default, annotation=type_)
        for name, (type_, default) in given.items()
    ]
    signature = inspect.Signature(parameters, return_annotation=Iterator[Reply])

    def generate(*args: Any, **kwargs: Any) -> Iterator[Reply]:
        call = signature.bind(*args, **kwargs)
        call.apply_defaults()
        try:
            yield from _stream(produce, _request(pack, poles, dict(call.arguments)))
        except MPDError as error:
            # It may quote what came, and half a surrogate pair cannot be sent back.
            said = str(error).encode("utf-8", "backslashreplace").decode("utf-8")
            raise gr.Error(said, print_exception=False) from error

    generate.__doc__ = _describe(engine, poles)
    generate.__signature__ = signature  # type: ignore[attr-defined]
    generate.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": Reply}
    return generate


def _settings(pack: Pack) -> dict[str, tuple[type, Any]]:
    """Type and default of every parameter but the instruction and the dimensions."""
    types: dict[str, type] = {n.name: int if n.whole else float for n in NUMBERS.values()}
    decode = pack.spec.decode
    sampling = {
        name: (types[name], getattr(decode, name, NUMBERS[name].default))
        for name in (*FIRST, *(name for name in NUMBERS if name not in (*FIRST, *SHIFTING)))
    }
    merging = {"space": (str, None), **{name: (types[name], None) for name in SHIFTING}}
    return {"method": (str, METHOD), **sampling, **merging, "branch": (dict, None)}


def _parameter_names(pack: Pack) -> list[str]:
    """One a dimension: its own name, or with a line behind it where that is taken."""
    taken = {"instruction", *_settings(pack), *CLIENT}
    names = []
    for dimension in pack.space.dimensions:
        name = dimension.name
        while name in taken or keyword.iskeyword(name):
            name += "_"
        taken.add(name)
        names.append(name)
    return names


def _describe(engine: Host, poles: Mapping[str, Dimension]) -> str:
    choices = "; ".join(
        f"{name}: {', '.join(pole.name for pole in dimension.poles)}"
        for name, dimension in poles.items()
    )
    return (
        "Stream one reply. Each value but the last is {text, steps, done: false}; the last is the "
        f"whole trace. Poles by dimension, empty to leave one out: {choices}. "
        f"Methods: {', '.join(engine.methods)}. Spaces: {', '.join(get_args(Space))}. "
        "branch goes on from another reply's first tokens: {prefix: [ids], token: id or null, "
        "weights: [one an expert] or null, lasting: bool}; steps then begin after the prefix. "
        "A setting that is null is the pack's."
    )


def _request(
    pack: Pack, poles: Mapping[str, Dimension], given: Mapping[str, Any]
) -> GenerationRequest:
    """What a call asks for; a setting that is None is as if it were left out.

    Raises:
        RequestError: a value that cannot be used.
    """
    chosen = {dimension.name: given[name] for name, dimension in poles.items()}
    numbers = {
        name: whole(name, given[name]) if n.whole and given[name] is not None else given[name]
        for name, n in NUMBERS.items()
    }
    space: Any = _word("space", given["space"], pack.spec.decode.space)
    return pack.request(
        (Message("user", given["instruction"]),),
        pack.space.select(chosen).code,
        _word("method", given["method"], METHOD),
        space=space,
        branch=branch(given["branch"]),
        **numbers,
    )


def _word(name: str, value: object, default: str) -> str:
    if value is not None and not isinstance(value, str):
        raise RequestError(f"{name} is {value!r:.60}: give a name.")
    return value or default


def _stream(produce: zerogpu.Producer, request: GenerationRequest) -> Iterator[Reply]:
    steps: list[StepRecord] = []
    shown = 0.0
    run = Run("", request)
    try:
        pieces: Iterator[zerogpu.Piece | None] = produce(run.request, run.attach)
        if not zerogpu.active():  # None while the request waits: its client may leave meanwhile
            pieces = together([pieces])
        for piece in pieces:
            if isinstance(piece, Trace):
                yield piece.to_dict()
                continue
            if isinstance(piece, StepRecord):
                steps.append(piece)
            due = bool(steps) and time.monotonic() - shown > FRAME_SECONDS
            if due or piece is None:
                shown = time.monotonic()
                text = "".join(step.text for step in steps)
                yield {"text": text, "steps": len(steps), "done": False}
    finally:
        run.close("done", "cancelled")
