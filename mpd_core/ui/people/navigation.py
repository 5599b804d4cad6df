"""The bar that leads from page to page."""

from __future__ import annotations

import gradio as gr


def navigation() -> None:
    """Put it on the page that is being built."""
    gr.Navbar(main_page_name="Studio")
