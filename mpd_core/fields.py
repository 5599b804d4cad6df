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

    @property
    def kind(self) -> type[int] | type[float]:
        return type(self.default)

    def check(self, value: object) -> None:
        """Refuse what is no such number.

        Raises:
            RequestError: it is of another type, or out of bounds.
        """
        known: Any = self.kind if self.kind is int else (int, float)
        number = isinstance(value, known) and not isinstance(value, bool)
        fits = number and self.low <= value <= self.high  # type: ignore[operator]
        if not fits or (self.above and value == self.low):
            kind = "a whole number" if self.kind is int else "a number"
            edge = f"above {self.low:g} and at most" if self.above else f"from {self.low} to"
            raise RequestError(f"{self.name} is {value!r:.60}: give {kind} {edge} {self.high}.")


def number(default: float, low: float, high: float, meaning: str, *, above: bool = False) -> Any:
    """A dataclass field that is a number; see ``Number``."""
    return field(
        default=default, metadata={"low": low, "high": high, "help": meaning, "above": above}
    )


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
