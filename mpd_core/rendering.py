"""Texts and pages from ``templates/``: Markdown, and HTML of some kilobytes that opens offline.

Whatever is put into a page is escaped; into Markdown only what goes through the filter ``line``,
which ``table`` does with every cell.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

NOTHING = "–"

Table = tuple[Sequence[str], Sequence[Sequence[str]]]
"""Head and rows, for whatever draws them."""
Found = Mapping[str, Any]
Column = str | Callable[[Found], str]
"""A name in the figures of a row, or what makes the cell of them."""

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 640, 360, 64, 56, 34, 16
TICKS, LABELS = 4, 8

Points = Sequence[tuple[float, float]]


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


def listed(rows: Iterable[Found], columns: Mapping[str, Column]) -> Table:
    """A line for each row, with the figures that the columns name."""
    return list(columns), [[_text(row, what) for what in columns.values()] for row in rows]


def _text(row: Found, what: Column) -> str:
    value = row.get(what) if isinstance(what, str) else what(row)
    return str(value) if isinstance(value, (str, int)) else number(value)


def line(text: str) -> str:
    """Untrusted text as one line that Markdown does not read as a table, heading or tag."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def number(value: float | None, digits: int = 2) -> str:
    """Rounded; a dash where there is none."""
    return NOTHING if value is None else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    """A share in percent with one digit, which is as much as these samples support."""
    return NOTHING if value is None else f"{100 * value:.1f}"


def line_chart(title: str, curves: Mapping[str, Points], *, powers: bool = False) -> Markup:
    """Curves over one pair of axes as SVG; the legend names those that have a name.

    By hand: Plotly would bring four megabytes of script to each page.

    y begins at zero, or at its least value where that is below zero. With ``powers`` both axes are
    logarithmic, base 2, and all numbers are above 0.
    """
    xs = sorted({x for points in curves.values() for x, _ in points})
    ys = [y for points in curves.values() for _, y in points]
    if powers:
        low, high = math.floor(math.log2(min(ys))), math.ceil(math.log2(max(ys)))
        ticks = [2.0**power for power in range(low, high + 1)]
    else:
        least, most = min(0.0, *ys), max(0.0, *ys) or 1.0
        ticks = [least + (most - least) * k / TICKS for k in range(TICKS + 1)]
    scale = math.log2 if powers else float
    across = _axis(scale, xs, LEFT, WIDTH - RIGHT)
    up = _axis(scale, ticks, HEIGHT - BOTTOM, TOP)
    drawn = rendered(
        "chart.html",
        title=title,
        size=(WIDTH, HEIGHT),
        frame=(LEFT, WIDTH - RIGHT, HEIGHT - BOTTOM),
        rows=[(up(tick), f"{tick:.3g}") for tick in ticks],
        columns=[(across(x), f"{x:g}") for x in xs[:: math.ceil(len(xs) / LABELS)]],
        curves={name: [(across(x), up(y)) for x, y in curve] for name, curve in curves.items()},
    )
    return Markup(drawn)


def _axis(
    scale: Callable[[float], float], values: Sequence[float], start: float, end: float
) -> Callable[[float], float]:
    """Where a value lies between two ends, which the first and the last of these have."""
    low, high = scale(values[0]), scale(values[-1])
    return lambda value: round(start + (end - start) * (scale(value) - low) / (high - low or 1), 1)
