"""What every page has: at its top the way to the others, its name, the pack, and a switch."""

from __future__ import annotations

from typing import Any

import gradio as gr

from mpd_core.ui import assets

PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
"""Of events that are nobody's API."""


def header(title: str) -> None:
    """Name, pack and the switch between light and dark, on the page that is being built.

    Args:
        title: the pack's.
    """
    gr.HTML(
        html_template=assets.text("header.html"),
        js_on_load=assets.text("header.js"),
        title=title,
        elem_id="header",
    )


def navigation() -> None:
    """The bar that leads from page to page, likewise."""
    gr.Navbar(main_page_name="Studio")
