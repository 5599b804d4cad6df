"""The page's components and how its events are wired; the looks are in ``assets/ui``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args
from urllib.parse import quote

import gradio as gr

from mpd_core.preferences import Dimension
from mpd_core.request import MAX_SEED, Space
from mpd_core.ui import assets, palette, view, zerogpu
from mpd_core.ui.api import Page, generate_function
from mpd_core.ui.chat import Chat
from mpd_core.ui.handlers import Handlers

if TYPE_CHECKING:
    from mpd_core.engine import Engine

CONCURRENT_RUNS = 16
_PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
_METHODS = {
    "mpd": "MPD: weights anew at every token",
    "uniform": "MPD uniform: equal weights",
    "soup": "Personalized soup",
    "prompting": "Preference prompting",
    "vanilla": "Vanilla prompting",
}


def build(engine: Engine) -> gr.Blocks:
    """The whole app over an open engine, not yet launched."""
    produce = zerogpu.producer(engine)
    handlers = Handlers(engine, produce)
    with Page(title="MPD Studio", analytics_enabled=False) as page:
        chat = gr.State(Chat(), time_to_live=3600, delete_callback=lambda gone: gone.clear())
        _header(engine)
        with gr.Row(elem_id="studio"):
            with gr.Column(elem_id="controls", scale=2, min_width=300):
                prompt, poles, buttons, settings = _controls(engine)
            with gr.Column(elem_id="reply", scale=5, min_width=300):
                picture = _picture(engine)
        _wire(handlers, chat, prompt, [*poles, *settings], picture, buttons)
        gr.api(
            generate_function(engine, produce),
            api_name="generate",
            concurrency_limit=CONCURRENT_RUNS,
        )
    return page


def _header(engine: Engine) -> None:
    gr.HTML(
        html_template=assets.text("header.html"),
        js_on_load=assets.text("header.js"),
        title=engine.pack.spec.title,
        facts=f"{engine.info.device} · {engine.info.precision}",
        elem_id="header",
    )


def _controls(engine: Engine) -> tuple[Any, list[Any], tuple[Any, Any, Any], list[Any]]:
    """Prompt, one choice per dimension, (Run, Stop, New chat), and the advanced settings."""
    prompt = gr.Textbox(
        label="Instruction",
        placeholder="Ask for something…",
        info="Ctrl+Enter runs",
        lines=3,
        max_lines=10,
        elem_id="prompt",
    )
    with gr.Group(elem_id="dimensions"):
        poles = [_dimension(i, d) for i, d in enumerate(engine.pack.space.dimensions)]
    with gr.Row(elem_id="buttons"):
        run = gr.Button("Run", variant="primary", elem_id="run", min_width=80, scale=2)
        stop = gr.Button("Stop", elem_id="stop", min_width=70)
        new = gr.Button("New chat", elem_id="new", min_width=90)
    _examples(engine, prompt, poles)
    with gr.Accordion("Advanced settings", open=False, elem_id="advanced"):
        settings = _settings(engine)
    return prompt, poles, (run, stop, new), settings


def _dimension(index: int, dimension: Dimension) -> gr.Radio:
    poles = [(f"{palette.glyph(index, k)} {p.name}", p.name) for k, p in enumerate(dimension.poles)]
    return gr.Radio(
        [*poles, ("off", "")],
        value=dimension.poles[0].name,
        label=dimension.name.replace("_", " "),
        elem_id=f"dimension-{index}",
        elem_classes="dimension",
    )


def _examples(engine: Engine, prompt: Any, poles: list[Any]) -> None:
    space, examples = engine.pack.space, engine.pack.spec.examples
    if not examples:
        return
    rows = []
    for text, code in examples:
        chosen = space.parse(code).choices
        rows.append([text, *("" if pole is None else pole.name for pole in chosen)])
    labels = [
        "".join(palette.look(space, name).glyph for name in row[1:] if name) + f" {row[0]}"
        for row in rows
    ]
    gallery = gr.Dataset(
        components=[prompt],
        samples=[[row[0]] for row in rows],
        sample_labels=labels,
        type="index",
        layout="gallery",
        label="Examples",
        samples_per_page=len(rows),
        elem_id="examples",
    )
    gallery.click(lambda index: rows[index], gallery, [prompt, *poles], queue=False, **_PRIVATE)


def _settings(engine: Engine) -> list[Any]:
    """In the order that ``Handlers.request`` reads them."""
    decode = engine.pack.spec.decode
    return [
        gr.Dropdown([(_method(m), m) for m in engine.methods], value="mpd", label="Method"),
        gr.Radio(
            list(get_args(Space)), value=decode.space, label="Experts are merged in this space"
        ),
        gr.Slider(
            0,
            max(4, decode.strength),
            decode.strength,
            step=0.05,
            label="Strength",
            info="of the space with that name: how far experts move the text",
        ),
        gr.Slider(
            1,
            decode.max_new_tokens_limit,
            decode.max_new_tokens,
            step=1,
            label="Longest reply",
            info="in tokens",
        ),
        gr.Slider(
            0,
            max(2, decode.temperature),
            decode.temperature,
            step=0.05,
            label="Temperature",
            info="0 is greedy",
        ),
        gr.Slider(0.05, 1, decode.top_p, step=0.05, label="Top-p"),
        gr.Slider(
            1,
            max(2, decode.repetition_penalty),
            decode.repetition_penalty,
            step=0.05,
            label="Repetition penalty",
        ),
        gr.Slider(
            0,
            max(2, decode.dry_multiplier),
            decode.dry_multiplier,
            step=0.05,
            label="Loop penalty",
            info="DRY: on repeating whole sequences",
        ),
        gr.Number(0, precision=0, label="Seed", info=f"0 to {MAX_SEED}"),
    ]


def _method(name: str) -> str:
    if name.startswith("expert:"):
        return f"Only {name.removeprefix('expert:')}"
    return _METHODS.get(name, name)


def _picture(engine: Engine) -> gr.HTML:
    """The conversation, strip, heatmap and summary: one component that owns its DOM."""
    space = engine.pack.space
    poles = [
        {
            "name": pole.name,
            "slot": palette.look(space, pole.name).slot,
            "glyph": palette.look(space, pole.name).glyph,
        }
        for pole in space.poles
    ]
    return gr.HTML(
        value=view.idle(Chat()),
        html_template=assets.text("view.html"),
        js_on_load=assets.view_script(),
        plotly=f"gradio_api/file={quote(str(assets.PLOTLY))}",
        trained=engine.pack.trained,
        notes=list(engine.info.notes),
        poles=poles,
        apply_default_css=False,
        elem_id="view",
    )


def _wire(
    handlers: Handlers, chat: Any, prompt: Any, asked: list[Any], picture: Any, buttons: Any
) -> None:
    run, stop, new = buttons
    begun = gr.on(
        [run.click, prompt.submit],
        handlers.begin,
        [chat, prompt, *asked],
        picture,
        queue=False,
        **_PRIVATE,
    )
    # "multiple": a stopped reply may still wait for the engine when the next one is asked for.
    later: dict[str, Any] = {**_PRIVATE, "trigger_mode": "multiple"}
    written = begun.then(
        handlers.write, chat, [picture, prompt], concurrency_limit=CONCURRENT_RUNS, **later
    )
    written.then(handlers.settle, [chat, prompt], prompt, queue=False, **later)
    stop.click(handlers.stop, chat, picture, queue=False, **_PRIVATE)
    new.click(handlers.clear, chat, picture, queue=False, **_PRIVATE)
