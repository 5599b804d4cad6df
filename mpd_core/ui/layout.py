"""The page's components and how its events are wired; the looks are in ``assets/ui``."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import gradio as gr

from mpd_core.analysis import read_trace
from mpd_core.method.preferences import Dimension
from mpd_core.trace import SCHEMA_VERSION
from mpd_core.ui import analyse, assets, opening, palette, settings, zerogpu
from mpd_core.ui.api import Page, generate_function
from mpd_core.ui.ask import MAX_RUNS
from mpd_core.ui.handlers import Handlers
from mpd_core.ui.pages import PRIVATE, header, navigation
from mpd_core.ui.people import results_page, vote_page
from mpd_core.ui.people.ballots import Place
from mpd_core.ui.runs import encode, head
from mpd_core.ui.standalone import MARK, viewer_page

if TYPE_CHECKING:
    from mpd_core.packs import Pack
    from mpd_core.ui.opening import Host

CONCURRENT_RUNS = 64
"""As many as the engine lets wait: its own queue can say who is before whom."""
EXAMPLE = "example.json"
"""In a pack's folder: a trace that a new visitor sees before anything has been asked."""
# A page's own functions, which assets/ui/main.js defines; Gradio may call before it has loaded.
_CALL = """async (...values) => {
  while (!window.mpdStudio) await new Promise(done => setTimeout(done, 20));
  return window.mpdStudio.%s(...values);
}"""


def build(engine: Host) -> gr.Blocks:
    """The whole app over an engine that is open or being opened, not yet launched."""
    produce = zerogpu.producer(engine)
    handlers = Handlers(engine, produce)
    with Page(title="MPD Studio", analytics_enabled=False, fill_width=True) as page:
        header(engine.pack.spec.title)
        with gr.Tabs(elem_id="tabs"):
            # Chat stays on the page behind the others, with what is being written.
            with gr.Tab("Chat", id="chat", render_children=True):
                _chat(engine, handlers, page)
            with gr.Tab("Analyse", id="analyse-tab"):
                analyse.build(engine.pack.space)
        gr.api(
            generate_function(engine, produce),
            api_name="generate",
            concurrency_limit=CONCURRENT_RUNS,
        )
    with page:
        navigation()
    place = Place(engine.pack)
    vote_page.build(page, place)
    results_page.build(page, place)
    return page


def _chat(engine: Host, handlers: Handlers, page: Page) -> None:
    with gr.Row(elem_id="studio"):
        with gr.Column(elem_id="controls", scale=2, min_width=260):
            prompt, poles, buttons, controls = _controls(engine)
        with gr.Column(elem_id="reply", scale=5, min_width=260):
            asked = gr.Textbox(visible=False)
            picture = _picture(engine, controls)
    _wire(handlers, page, [prompt, *poles, *controls.values()], asked, picture, buttons)


def _controls(engine: Host) -> tuple[Any, list[Any], tuple[Any, Any, Any], dict[str, Any]]:
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
    gr.HTML(
        html_template=assets.text("controls.html"),
        js_on_load=assets.text("controls.js"),
        apply_default_css=False,
        elem_id="more",
    )
    with gr.Accordion("Advanced settings", open=False, elem_id="advanced"):
        controls = settings.build(engine)
    return prompt, poles, (run, stop, new), controls


def _dimension(index: int, dimension: Dimension) -> gr.Radio:
    poles = [(f"{palette.glyph(index, k)} {p.name}", p.name) for k, p in enumerate(dimension.poles)]
    return gr.Radio(
        [*poles, ("off", "")],
        value=dimension.poles[0].name,
        label=dimension.name.replace("_", " "),
        elem_id=f"dimension-{index}",
        elem_classes="dimension",
    )


def _picture(engine: Host, controls: dict[str, Any]) -> gr.HTML:
    """The conversation, map and inspector: one component that owns its DOM."""
    pack = _pack_facts(engine, controls)
    css = palette.css(engine.pack.space) + assets.text("studio.css")

    def standalone(_: Any) -> str:
        """The page of one reply, for the browser to put a trace into."""
        return viewer_page(css, pack)

    stored = _stored_example(engine.pack)

    def example(_: Any) -> str:
        """A reply to show before anybody has asked."""
        return stored

    return gr.HTML(
        value={"runs": {}},
        html_template=assets.text("view.html"),
        js_on_load=assets.script(*assets.VIEW),
        plotly=f"gradio_api/file={quote(str(assets.PLOTLY))}",
        trained=engine.pack.trained,
        engine=opening.describe(engine),
        pack=pack,
        mark=MARK,
        server_functions=[standalone, example],
        apply_default_css=False,
        elem_id="view",
    )


def _stored_example(pack: Pack) -> str:
    """The pack's example as the page reads replies; "" where it has none.

    Raises:
        TraceError: it has one that cannot be read.
    """
    file = pack.folder / EXAMPLE
    if not file.is_file():
        return ""
    trace = read_trace(file)
    names = list(trace.steps[0].weights) if trace.steps else list(trace.poles)
    rows = encode(names, trace.steps)
    return json.dumps({"head": head(trace), "experts": names, "rows": rows})


def _pack_facts(engine: Host, controls: dict[str, Any]) -> dict[str, Any]:
    """What the page's JavaScript must know of the pack; no model or visitor wrote any of it."""
    space, spec = engine.pack.space, engine.pack.spec
    looks = palette.looks(space)
    count = math.prod(len(dimension.poles) for dimension in space.dimensions)
    return {
        "name": spec.name,
        "schema": SCHEMA_VERSION,
        "dimensions": [
            {
                "name": dimension.name.replace("_", " "),
                "poles": [
                    {"name": pole.name, **asdict(looks[pole.name])} for pole in dimension.poles
                ],
            }
            for dimension in space.dimensions
        ],
        "methods": {name: settings.method_label(name) for name in engine.methods},
        "settings": settings.describe(controls),
        "examples": [[text, space.parse(code).code] for text, code in spec.examples],
        "every": count if count <= MAX_RUNS else 0,
        "topK": spec.decode.top_k_recorded,
        "hash": engine.pack.toml_sha256,
        "shapes": palette.EXTRA_SHAPES,
        "firstExtra": len(space.poles),
    }


def _wire(
    handlers: Handlers, page: Any, controls: list[Any], asked: Any, picture: Any, buttons: Any
) -> None:
    """Events. The page's JavaScript says what is asked: it has the conversation."""
    run, stop, new = buttons
    # "multiple": a stopped reply may still wait for the engine when the next one is asked for.
    several: dict[str, Any] = {**PRIVATE, "trigger_mode": "multiple"}
    client: dict[str, Any] = {**several, "queue": False}
    told = [*controls, asked]
    pressed = gr.on([run.click, controls[0].submit], None, told, asked, js=_CALL % "ask", **client)
    for request in (pressed, picture.ask(None, told, asked, js=_CALL % "askMeant", **client)):
        request.then(
            handlers.write, asked, picture,
            concurrency_limit=CONCURRENT_RUNS, concurrency_id="runs", **several,
        )  # fmt: skip
    stop.click(handlers.stop, asked, picture, js=_CALL % "openRuns", **client)
    picture.halt(handlers.stop, asked, picture, js=_CALL % "halted", **client)
    picture.fetch(handlers.fetch, asked, picture, js=_CALL % "missing", **client)
    new.click(None, None, None, js=_CALL % "forget", **client)
    gr.on([c.change for c in controls], None, controls, None, js=_CALL % "remember", **client)
    # What comes then is told of once the values are on the page.
    filled = picture.fill(None, controls, controls, js=_CALL % "wanted", **client)
    filled.then(None, None, None, js=_CALL % "filled", **client)
    restored = page.load(None, None, controls, js=_CALL % "restore", **client)
    restored.then(None, None, None, js=_CALL % "restored", **client)
