"""What every page has: its name in its head; at its top the way to the others, the pack, a switch.

Gradio's template calls every page "Gradio" at "{url}".
"""

from __future__ import annotations

import re
from html import escape
from typing import Any

import gradio as gr
import gradio.routes
from jinja2 import ChoiceLoader, DictLoader

from mpd_core.ui import assets

PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
"""Of events that are nobody's API."""
TITLE = "MPD Studio"
DESCRIPTION = "Personalised text generation: several experts, weighed anew at every token."
_TEMPLATE = "frontend/index.html"
_SOCIAL = re.compile(r'<meta\s+(?:property|name)="(?:og|twitter):[^>]*/>\s*')


def header(title: str) -> None:
    """Name, the pack's title and the switch between light and dark, on the page being built."""
    gr.HTML(
        html_template=assets.text("header.html"),
        js_on_load=assets.text("header.js"),
        title=title,
        elem_id="header",
    )


def navigation() -> None:
    """The bar that leads from page to page, likewise."""
    gr.Navbar(main_page_name="Studio")


def head() -> str:
    """The tags that other sites and the browser's tab read."""
    facts = {"og:title": TITLE, "og:type": "website", "og:description": DESCRIPTION}
    tags = [f'<meta property="{key}" content="{escape(value)}" />' for key, value in facts.items()]
    return "\n".join(
        [
            *tags,
            f'<meta name="description" content="{escape(DESCRIPTION)}" />',
            '<link rel="icon" type="image/svg+xml" href="./favicon.ico" />',
        ]
    )


def rename(template: str) -> str:
    """A page template with our tags in place of all social ones; others stay as they are."""
    return _SOCIAL.sub("", template).replace("<head>", f"<head>\n{head()}", 1)


def use_own_head() -> None:
    """Let Gradio render the renamed template, whoever launches a page in this process."""
    environment = gradio.routes.templates.env
    if environment.loader is None or isinstance(environment.loader, ChoiceLoader):
        return
    source, *_ = environment.loader.get_source(environment, _TEMPLATE)
    renamed = DictLoader({_TEMPLATE: rename(source)})
    environment.loader = ChoiceLoader([renamed, environment.loader])
