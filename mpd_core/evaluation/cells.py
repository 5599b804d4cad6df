"""Tables as head and rows of text, and the cells in them; Markdown is drawn here."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)

NOTHING = "–"

Table = tuple[Sequence[str], Sequence[Sequence[str]]]
"""Head and rows, for whatever draws them."""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table in Markdown, and an empty one after it."""
    safe = [[line(cell) for cell in row] for row in (head, *rows)]
    drawn = ["| " + " | ".join(row) + " |" for row in safe]
    return [drawn[0], "|" + "---|" * len(head), *drawn[1:], ""]


def blocks(*parts: str | Table) -> Iterator[str]:
    """Lines of Markdown: headings, paragraphs and tables, an empty line after each."""
    for part in parts:
        yield from (part, "") if isinstance(part, str) else table(*part)


def union(rows: Iterable[Iterable[str]]) -> list[str]:
    """All names in these rows, each once, as they first appear: the columns of a table."""
    return list(dict.fromkeys(itertools.chain.from_iterable(rows)))


def grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """Items that have the same key, under it, in the order in which they come."""
    found: dict[Key, list[Item]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found


def line(text: str) -> str:
    """Untrusted text as one line that Markdown does not read as a table, heading or tag."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def number(value: float | None, digits: int = 2) -> str:
    """Rounded; a dash where there is none."""
    return NOTHING if value is None else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    """A share in percent with one digit, which is as much as these samples support."""
    return NOTHING if value is None else f"{100 * value:.1f}"
