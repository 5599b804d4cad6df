"""Numbers that people choose, each declared once: as a field of a dataclass, with bounds and help.

Checks, packs, the command line, the page and ``/generate`` all read these declarations, so they
cannot differ.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any

from mpd_core.errors import RequestError


@dataclass(frozen=True)
class Number:
    """One of them; whole where its default is."""

    name: str
    default: int | float
    low: int | float
    high: int | float
    help: str
    above: bool
    """Whether ``low`` itself is out of bounds."""
    title: str = ""

    @property
    def label(self) -> str:
        """On the page: the title, else the name."""
        return self.title or self.name.replace("_", " ").capitalize()

    @property
    def whole(self) -> bool:
        return isinstance(self.default, int)

    @property
    def wanted(self) -> str:
        """What may be given, in words."""
        kind = "a whole number" if self.whole else "a number"
        low, high = (f"{n:g}" if isinstance(n, float) else n for n in (self.low, self.high))
        return f"{kind} {f'above {low} and at most' if self.above else f'from {low} to'} {high}"

    def check(self, value: object) -> None:
        """Refuse what is no such number.

        Raises:
            RequestError: it is of another type, or out of bounds.
        """
        number = isinstance(value, int if self.whole else (int, float))
        fits = number and not isinstance(value, bool) and self.low <= value <= self.high  # type: ignore[operator]
        if not fits or (self.above and value == self.low):
            raise RequestError(f"{self.name} is {value!r:.60}: give {self.wanted}.")


def number(
    default: float, low: float, high: float, meaning: str, *, above: bool = False, title: str = ""
) -> Any:
    """A dataclass field that is a number; see ``Number``."""
    declared = {"low": low, "high": high, "help": meaning, "above": above, "title": title}
    return field(default=default, metadata=declared)


@cache
def numbers_of(owner: Any) -> dict[str, Number]:
    """The numbers that a dataclass declares, by name, in order."""
    declared: Any = [f for f in fields(owner) if f.metadata]
    return {f.name: Number(f.name, f.default, **f.metadata) for f in declared}


def check_numbers(instance: Any) -> None:
    """Check every number of a dataclass's instance.

    Raises:
        RequestError: names the field.
    """
    owner: Any = type(instance)
    for declared in numbers_of(owner).values():
        declared.check(getattr(instance, declared.name))
