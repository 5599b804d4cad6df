"""What every page has at its top: name, pack, and the switch between light and dark."""

from __future__ import annotations

import gradio as gr

from mpd_core.ui import assets


def header(title: str) -> None:
    """Put it on the page that is being built.

    Args:
        title: the pack's.
    """
    gr.HTML(
        html_template=assets.text("header.html"),
        js_on_load=assets.text("header.js"),
        title=title,
        elem_id="header",
    )
