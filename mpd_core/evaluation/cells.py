"""Markdown tables whose cells may hold anything."""

from __future__ import annotations

from collections.abc import Sequence

NOTHING = "–"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table's lines, and an empty one."""
    safe = [[line(cell) for cell in row] for row in (head, *rows)]
    drawn = ["| " + " | ".join(row) + " |" for row in safe]
    return [drawn[0], "|" + "---|" * len(head), *drawn[1:], ""]


def line(text: str) -> str:
    """A name from a file or a pack, which must not draw a table or a heading of its own."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def number(value: float | None, digits: int = 2) -> str:
    """Rounded; a dash where there is none."""
    return NOTHING if value is None else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    """A share in percent, with one digit as precise as the paper's two would pretend to be."""
    return NOTHING if value is None else f"{100 * value:.1f}"
