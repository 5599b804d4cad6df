"""Dimensions, poles and preferences. All of them come from a pack: nothing here counts to three."""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mpd_core.errors import RequestError

LEFT_OUT = "-"


@dataclass(frozen=True)
class Pole:
    """One end of a dimension, e.g. *concise*, and the sentence that asks for it (Table 1)."""

    name: str
    instruction: str


@dataclass(frozen=True)
class Dimension:
    """A named choice between two or more poles; pole ``k`` has the letter ``"ABC..."[k]``."""

    name: str
    poles: tuple[Pole, ...]

    def letter(self, pole: Pole) -> str:
        """The letter of one of its poles."""
        return string.ascii_uppercase[self.poles.index(pole)]

    def by_letter(self, letter: str) -> Pole:
        """The pole of a letter, ``A`` for the first.

        Raises:
            RequestError: no pole has it.
        """
        index = string.ascii_uppercase.find(letter)
        if not 0 <= index < len(self.poles):
            known = ", ".join(f"{self.letter(p)} ({p.name})" for p in self.poles)
            raise RequestError(
                f"'{letter}' is no pole of dimension '{self.name}': use {known} or '-'."
            )
        return self.poles[index]

    def by_name(self, name: str) -> Pole:
        """The pole of a name.

        Raises:
            RequestError: no pole has it.
        """
        for pole in self.poles:
            if pole.name == name:
                return pole
        known, shown = ", ".join(p.name for p in self.poles), str(name)[:60]
        raise RequestError(
            f"'{shown}' is no pole of dimension '{self.name}': use {known} or leave it out."
        )


@dataclass(frozen=True)
class Preference:
    """One pole, or none, per dimension: the paper's xi.

    ``choices[d]`` is the chosen pole of ``dimensions[d]`` or None where the dimension is left out.
    """

    dimensions: tuple[Dimension, ...]
    choices: tuple[Pole | None, ...]

    @property
    def poles(self) -> tuple[Pole, ...]:
        """The chosen poles, in the order of the dimensions: the experts that take part."""
        return tuple(pole for pole in self.choices if pole is not None)

    @property
    def chosen(self) -> dict[str, Pole]:
        """The chosen poles, by the names of their dimensions."""
        pairs = zip(self.dimensions, self.choices, strict=True)
        return {dimension.name: pole for dimension, pole in pairs if pole is not None}

    @property
    def code(self) -> str:
        """Letters, one a dimension, ``-`` where it is left out: ``AAB``, ``A-B``."""
        pairs = zip(self.dimensions, self.choices, strict=True)
        return "".join(LEFT_OUT if p is None else d.letter(p) for d, p in pairs)


@dataclass(frozen=True)
class PreferenceSpace:
    """All dimensions of a pack, and the ways to name a point in them."""

    dimensions: tuple[Dimension, ...]

    @property
    def poles(self) -> tuple[Pole, ...]:
        """Every pole of every dimension, dimension by dimension: the order of the PCM's head."""
        return tuple(pole for dimension in self.dimensions for pole in dimension.poles)

    @property
    def codes(self) -> list[str]:
        """Of every full preference, in order: AAA, AAB, ABA ..."""
        return [preference.code for preference in self]

    def parse(self, code: str) -> Preference:
        """``"AAB"`` or ``"A-B"`` to a preference.

        Raises:
            RequestError: wrong length, unknown letter.
        """
        if len(code) != len(self.dimensions):
            names = ", ".join(d.name for d in self.dimensions)
            raise RequestError(
                f"Preference '{code[:40]}' has {len(code)} letters; give {len(self.dimensions)}, "
                f"one for each of {names} ('-' leaves a dimension out)."
            )
        letters = (letter.upper() if letter.isascii() else letter for letter in code)
        pairs = zip(self.dimensions, letters, strict=True)
        return Preference(
            self.dimensions, tuple(None if c == LEFT_OUT else d.by_letter(c) for d, c in pairs)
        )

    def select(self, names: Mapping[str, str | None]) -> Preference:
        """``{"length": "concise"}`` to a preference; absent, None or ``""`` leaves one out.

        Raises:
            RequestError: unknown dimension or pole.
        """
        unknown = set(names) - {d.name for d in self.dimensions}
        if unknown:
            known = ", ".join(d.name for d in self.dimensions)
            raise RequestError(f"Unknown dimension '{sorted(unknown)[0]}': use {known}.")
        chosen = ((d, names.get(d.name)) for d in self.dimensions)
        return Preference(
            self.dimensions,
            tuple(None if n is None or n == "" else d.by_name(n) for d, n in chosen),
        )

    def __iter__(self) -> Iterator[Preference]:
        """Every full preference, first letter slowest: AAA, AAB, ABA ..."""
        for choices in itertools.product(*(d.poles for d in self.dimensions)):
            yield Preference(self.dimensions, choices)
