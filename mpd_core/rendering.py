"""Texts and pages from ``templates/``: Markdown, and HTML that opens offline.

Whatever is put into a page is escaped; into Markdown only what goes through the filter ``line``,
which ``table`` does with every cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

NOTHING = "–"

Table = tuple[Sequence[str], Sequence[Sequence[str]]]
"""Head and rows, for whatever draws them."""


def rendered(template: str, **values: Any) -> str:
    """A file of ``templates/``, filled; a name that is not among the values is an error."""
    return _environment().get_template(template).render(values)


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters.update(line=line, number=number, percent=percent, table=table)
    return made


def table(drawn: Table) -> str:
    """A table in Markdown."""
    head, rows = drawn
    cells = [[line(cell) for cell in row] for row in (head, *rows)]
    first, *others = ("| " + " | ".join(row) + " |" for row in cells)
    return "\n".join([first, "|" + "---|" * len(head), *others])


def line(text: str) -> str:
    """Untrusted text as one line that Markdown does not read as a table, heading or tag."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def number(value: float | None, digits: int = 2) -> str:
    """Rounded; a dash where there is none."""
    return NOTHING if value is None else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    """A share in percent with one digit, which is as much as these samples support."""
    return NOTHING if value is None else f"{100 * value:.1f}"
