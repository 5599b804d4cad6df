"""The tab that looks at many traces together."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import gradio as gr

from mpd_core.analysis import analyse, trace_from_json
from mpd_core.errors import MPDError
from mpd_core.method.preferences import PreferenceSpace
from mpd_core.ui import assets, palette

MAX_FILES = 200
MAX_CHARACTERS = 64 * 2**20


def build(space: PreferenceSpace) -> None:
    """The tab's contents, in the colours of a pack's experts."""
    gr.HTML(
        html_template=assets.text("analyse.html"),
        js_on_load=assets.script(*assets.ANALYSIS, "analyse-tab.js"),
        plotly=f"gradio_api/file={quote(str(assets.PLOTLY))}",
        slots={name: look.slot for name, look in palette.looks(space).items()},
        dimensions=[
            [[palette.glyph(d, p), pole.name] for p, pole in enumerate(dimension.poles)]
            for d, dimension in enumerate(space.dimensions)
        ],
        server_functions=[analyse_traces],
        apply_default_css=False,
        elem_id="analyse",
    )


def analyse_traces(sent: Any) -> dict[str, Any]:
    """What a page's traces say together: ``[[name, JSON], ...]``; nothing in it is trusted."""
    try:
        found = analyse({name: trace_from_json(text, name) for name, text in _pairs(sent).items()})
    except MPDError as error:
        return {"found": None, "csv": "", "refused": str(error)}
    return {"found": found.to_dict(), "csv": found.to_csv(), "refused": ""}


def _pairs(sent: Any) -> dict[str, str]:
    """Names and texts, each name once.

    Raises:
        MPDError: something else was sent, or too much.
    """
    proper = isinstance(sent, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair)
        for pair in sent
    )
    if not proper or not 1 <= len(sent) <= MAX_FILES:
        raise MPDError(f"Give 1 to {MAX_FILES} traces.")
    if sum(len(text) for _, text in sent) > MAX_CHARACTERS:
        raise MPDError(f"At most {MAX_CHARACTERS // 2**20} MB of traces are read together.")
    named: dict[str, str] = {}
    for name, text in sent:
        shown = name[:120]
        named[f"{shown} ({len(named) + 1})" if shown in named else shown] = text
    return named
