"""Pages that open without a server or a network: one reply, or an analysis of many.

Data stands in them as JSON in which no character can end a script element; scripts of the page put
it on the screen as text. A policy in the page's head forbids it to load anything.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mpd_core.method.preferences import PreferenceSpace
from mpd_core.trace import LINE_ENDS
from mpd_core.ui import assets, palette

if TYPE_CHECKING:
    from mpd_core.analysis import Analysis

MARK = "__MPD_TRACE_JSON__"
"""Where the page puts a trace into the page of one reply."""
_ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&"} | LINE_ENDS
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:"
)
_BASE_CSS = """
body { margin: 0 auto; max-width: 1800px; padding: clamp(12px, 2.2vw, 32px); box-sizing: border-box;
  font-family: system-ui, sans-serif; background: var(--mpd-paper); color: var(--mpd-text); }
button, select, input { font: inherit; }
h1 { font-size: 22px; font-weight: 600; }
.mpd-log { max-height: none; min-height: 0; }
.mpd-mode, .mpd-layer { width: auto; }
"""
_THEME = """{
  const dark = window.matchMedia('(prefers-color-scheme: dark)');
  const show = () => document.body.classList.toggle('dark', dark.matches);
  dark.addEventListener('change', show);
  show();
}"""


def inert(value: object) -> str:
    """JSON that stays data within a script element, whatever its text says."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).translate(_ESCAPES)


def viewer_page(css: str, pack: dict[str, Any]) -> str:
    """The page of one reply, with ``MARK`` in place of its trace.

    It has the stylesheet of the app, and what the app's JavaScript knows of the pack.
    """
    engine = {
        "ready": False, "offline": True, "stage": "", "device": "", "precision": "", "notes": [],
    }  # fmt: skip
    props = {"pack": pack, "trained": True, "engine": engine, "plotly": "", "value": {}}
    script = f"""{_THEME}
const element = document.querySelector('#view > div'), props = {inert(props)};
const watch = () => {{}}, trigger = () => {{}}, server = {{}};
{assets.script(*assets.VIEW)}"""
    body = f"""<h1>MPD Studio</h1>
<main id="view"><div>{assets.text("view.html")}</div></main>
<script type="application/json" id="mpd-trace">{MARK}</script>"""
    return _page("MPD Studio: a reply", css + _BASE_CSS, body, script)


def report_page(found: Analysis) -> str:
    """The page of an analysis, with its plots."""
    css = palette.css(PreferenceSpace(())) + assets.text("studio.css") + _BASE_CSS
    script = f"""{_THEME}
const found = JSON.parse(document.querySelector('#mpd-found').textContent);
{assets.script(*assets.ANALYSIS)}
showAnalysis(document.querySelector('.mpd-analysis'), found, () => Promise.resolve());"""
    body = f"""<main class="mpd"><h1>Traces together</h1><div class="mpd-analysis"></div></main>
<script type="application/json" id="mpd-found">{inert(found.to_dict())}</script>
<script>{assets.PLOTLY.read_text(encoding="utf-8")}</script>"""
    return _page("MPD Studio: traces together", css, body, script)


def _page(title: str, css: str, body: str, script: str) -> str:
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{title}</title>
<style>{css}</style>
</head>
<body>
{body}
<script>(() => {{
{script}
}})();</script>
</body>
</html>
"""
