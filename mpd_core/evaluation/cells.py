"""Markdown tables with escaped cells."""

from __future__ import annotations

from collections.abc import Sequence

NOTHING = "–"

Table = tuple[Sequence[str], Sequence[Sequence[str]]]
"""Head and rows, for whatever draws them."""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table, and an empty one after it."""
    safe = [[line(cell) for cell in row] for row in (head, *rows)]
    drawn = ["| " + " | ".join(row) + " |" for row in safe]
    return [drawn[0], "|" + "---|" * len(head), *drawn[1:], ""]


def line(text: str) -> str:
    """Untrusted text as one line that Markdown does not read as a table, heading or tag."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def number(value: float | None, digits: int = 2) -> str:
    """Rounded; a dash where there is none."""
    return NOTHING if value is None else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    """A share in percent with one digit, which is as much as these samples support."""
    return NOTHING if value is None else f"{100 * value:.1f}"
