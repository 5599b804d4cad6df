"""Files of the page: HTML, CSS and JavaScript as text, and the packaged plotly.js."""

from __future__ import annotations

from pathlib import Path

import plotly

from mpd_core.resources import ASSETS

FOLDER = ASSETS / "ui"
PLOTLY = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
ANALYSIS = ("text.js", "plotly.js", "analyse.js")
VIEW = (
    "text.js",
    "terms.js",
    "colouring.js",
    "strip.js",
    "trace.js",
    "npz.js",
    "map.js",
    "plotly.js",
    "explore.js",
    "markdown.js",
    "branch.js",
    "whatif.js",
    "inspect.js",
    "store.js",
    "form.js",
    "version.js",
    "turns.js",
    "compare.js",
    "state.js",
    "frames.js",
    "actions.js",
    "painting.js",
    "pointing.js",
    "front.js",
    "main.js",
)


def text(name: str) -> str:
    """One file of ``assets/ui``."""
    return (FOLDER / name).read_text(encoding="utf-8")


def script(*names: str) -> str:
    """Some of its JavaScript; the files share one function scope, so nothing is global."""
    return "\n".join(text(name) for name in names)
