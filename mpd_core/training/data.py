"""Answers in every style, as the trainers read them.

A line of the file is one prompt: ``{"id", "split", "prompt", "answers": {name: text}}``. A name is
a pole, ``neutral``, or a full preference code such as ``ABA``; poles and codes are the pack's, so a
new dimension is new answers and a new table in the pack, and no new code.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from mpd_core.errors import PackError
from mpd_core.packs import file_sha256
from mpd_core.preferences import Dimension, Pole, PreferenceSpace

Split = Literal["train", "valid", "test"]
NEUTRAL = "neutral"


@dataclass(frozen=True)
class Styled:
    """One prompt with its answers by name."""

    id: str
    split: Split
    prompt: str
    answers: Mapping[str, str]


@dataclass(frozen=True)
class Pair:
    """Two answers to a prompt of which the first is preferred."""

    prompt: str
    chosen: str
    rejected: str
    kind: str
    """What the two are: ``single``, ``neutral`` or ``whole`` (preferences)."""

    @property
    def length(self) -> int:
        """Characters of the longer text: pairs of like length make batches with little padding."""
        return len(self.prompt) + max(len(self.chosen), len(self.rejected))


@dataclass(frozen=True)
class Styles:
    """All prompts of a file, in its order."""

    rows: tuple[Styled, ...]
    sha256: str

    def split(self, name: Split) -> tuple[Styled, ...]:
        return tuple(row for row in self.rows if row.split == name)


def load_styles(file: Path) -> Styles:
    """Read a file of styled answers.

    Raises:
        PackError: names the line and what is wrong with it.
    """
    if not file.is_file():
        raise PackError(f"data.file: {file} is missing.")
    try:
        with file.open(encoding="utf-8-sig") as lines:
            rows = tuple(_styled(f"{file}:{number}", line) for number, line in enumerate(lines, 1))
    except UnicodeDecodeError as error:
        raise PackError(f"data.file: {file} is not UTF-8: {error}.") from error
    return Styles(rows, file_sha256(file))


def _styled(place: str, line: str) -> Styled:
    try:
        row = json.loads(line)
        styled = Styled(row["id"], row["split"], row["prompt"], row["answers"])
        texts = [styled.prompt, *styled.answers.values()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PackError(f"{place}: not a row of id, split, prompt and answers ({error}).") from None
    if styled.split not in get_args(Split):
        raise PackError(f"{place}: split '{styled.split}': use {', '.join(get_args(Split))}.")
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise PackError(f"{place}: the prompt and every answer must be text.")
    return styled


def answers_of(rows: Sequence[Styled], pole: Pole) -> Iterator[tuple[str, str]]:
    """Prompt and answer for every row that has one in this pole's style.

    Raises:
        PackError: no row has one.
    """
    found = [(row.prompt, row.answers[pole.name]) for row in rows if pole.name in row.answers]
    if not found:
        raise PackError(f"data.file: no row has an answer named '{pole.name}'.")
    return iter(found)


def opposites(space: PreferenceSpace, pole: Pole) -> tuple[Pole, ...]:
    """The other poles of its dimension."""
    return tuple(other for other in _dimension(space, pole).poles if other != pole)


def preference_pairs(
    rows: Sequence[Styled], space: PreferenceSpace, pole: Pole
) -> tuple[Pair, ...]:
    """For an expert: its own style before an opposite or the neutral one, in turns."""
    others = [other.name for other in opposites(space, pole)]
    rejected = [name for other in others for name in (other, NEUTRAL)]
    pairs = []
    for number, row in enumerate(rows):
        name = rejected[number % len(rejected)]
        if pole.name in row.answers and name in row.answers:
            kind = NEUTRAL if name == NEUTRAL else "single"
            pairs.append(Pair(row.prompt, row.answers[pole.name], row.answers[name], kind))
    return tuple(pairs)


def reward_pairs(rows: Sequence[Styled], space: PreferenceSpace, pole: Pole) -> tuple[Pair, ...]:
    """For a reward model: single styles as for an expert, and whole preferences.

    The answers to two preferences differ in other dimensions too, in both directions over the
    prompts, so that neither another dimension nor length can stand in for this one.
    """
    whole = (pair for row in rows for pair in _whole(row, space, pole))
    return (*preference_pairs(rows, space, pole), *whole)


def _whole(row: Styled, space: PreferenceSpace, pole: Pole) -> Iterator[Pair]:
    known = {p.code: p for p in space if p.code in row.answers}
    for code, preference in known.items():
        for other, opposed in known.items():
            if pole in preference.poles and pole not in opposed.poles:
                yield Pair(row.prompt, row.answers[code], row.answers[other], "whole")


def _dimension(space: PreferenceSpace, pole: Pole) -> Dimension:
    return next(dimension for dimension in space.dimensions if pole in dimension.poles)
