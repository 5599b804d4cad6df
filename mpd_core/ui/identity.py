"""The page's name in its own head: Gradio's template calls every page "Gradio" at "{url}"."""

from __future__ import annotations

import re
from html import escape

import gradio.routes
from jinja2 import ChoiceLoader, DictLoader

TITLE = "MPD Studio"
DESCRIPTION = "Personalised text generation: several experts, weighed anew at every token."
_TEMPLATE = "frontend/index.html"
_SOCIAL = re.compile(r'<meta\s+(?:property|name)="(?:og|twitter):[^>]*/>\s*')


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


def apply() -> None:
    """Let Gradio render the renamed template, whoever launches a page in this process."""
    environment = gradio.routes.templates.env
    if environment.loader is None or isinstance(environment.loader, ChoiceLoader):
        return
    source, *_ = environment.loader.get_source(environment, _TEMPLATE)
    renamed = DictLoader({_TEMPLATE: rename(source)})
    environment.loader = ChoiceLoader([renamed, environment.loader])
