"""Answers in every style, as the trainers read them, and readers' verdicts on replies.

A line of answers is one prompt: ``{"id", "split", "prompt", "answers": {name: text}}``. A name is a
pole, ``neutral``, or a full preference code such as ``ABA``; poles and codes are the pack's, so a
new dimension is new answers and a new table in the pack, and no new code.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar, get_args

from mpd_core.errors import MPDError, PackError
from mpd_core.method.preferences import LEFT_OUT, Dimension, Pole, PreferenceSpace
from mpd_core.packs import file_sha256

Split = Literal["train", "valid", "test"]
NEUTRAL = "neutral"
Row = TypeVar("Row")


@dataclass(frozen=True)
class Styled:
    """One prompt with its answers by name."""

    id: str
    split: Split
    prompt: str
    answers: Mapping[str, str]

    def texts(self, names: Iterable[str]) -> list[str]:
        """The answers with these names, those that there are."""
        return [self.answers[name] for name in names if name in self.answers]


@dataclass(frozen=True)
class Styles:
    """All prompts of a file, in its order."""

    rows: tuple[Styled, ...]
    sha256: str

    def __post_init__(self) -> None:
        if not self.split("train"):
            raise PackError("data.file: no row has the split 'train'.")

    def split(self, name: Split) -> tuple[Styled, ...]:
        """The prompts of one split, in the file's order."""
        return tuple(row for row in self.rows if row.split == name)


def load_styles(file: Path) -> Styles:
    """Read a file of styled answers.

    Raises:
        PackError: names the line and what is wrong with it.
    """
    return Styles(_rows("data.file", file, _styled), file_sha256(file))


def _rows(key: str, file: Path, read: Callable[[str, str], Row]) -> tuple[Row, ...]:
    """What ``read`` makes of each line, given its place, of a file that the recipe's key names."""
    try:
        with file.open(encoding="utf-8-sig") as lines:
            return tuple(read(f"{file}:{number}", line) for number, line in enumerate(lines, 1))
    except UnicodeDecodeError as error:
        raise PackError(f"{key}: {file} is not UTF-8: {error}.") from error
    except OSError as error:
        raise PackError(f"{key}: {file} cannot be read: {error}.") from error


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


def pole_answers(space: PreferenceSpace, pole: Pole) -> tuple[str, ...]:
    """Names of the answers that an expert learns from: of its pole, and of preferences with it.

    Shown its pole in all combinations of the others, an expert is the marginal over them: it goes
    on in whatever the text so far is on the other dimensions, and the tokens on which experts agree
    are those of the whole preference.
    """
    return (pole.name, *(p.code for p in space if pole in p.poles))


def common_answers(space: PreferenceSpace) -> tuple[str, ...]:
    """Names of the answers that the anchor learns from: of all preferences, and neutral ones."""
    return (*space.codes, NEUTRAL)


def opposites(space: PreferenceSpace, pole: Pole) -> tuple[Pole, ...]:
    """The other poles of a pole's dimension."""
    return tuple(other for other in _dimension(space, pole).poles if other != pole)


@dataclass(frozen=True)
class Comparison:
    """A pair of answers to one prompt of which ``chosen`` shows the pole more than ``rejected``."""

    pole: Pole
    chosen: str
    rejected: str
    kind: str
    """``single`` styles, single against ``neutral``, or whole preferences that differ in this
    dimension alone: then it is their code with ``-`` in its place, ``A-B``."""


def comparisons(space: PreferenceSpace, answers: Collection[str]) -> tuple[Comparison, ...]:
    """All pairs of answers that reward models learn from, among answers with these names.

    Whole preferences are compared as minimal pairs: the other letters are held, so neither another
    dimension nor length can stand in for this one.
    """
    found: list[Comparison] = []
    for pole in space.poles:
        others = opposites(space, pole)
        found += [Comparison(pole, pole.name, other.name, "single") for other in others]
        found.append(Comparison(pole, pole.name, NEUTRAL, NEUTRAL))
        place = space.dimensions.index(_dimension(space, pole))
        for code in (preference.code for preference in space if pole in preference.poles):
            held = code[:place] + LEFT_OUT + code[place + 1 :]
            for other in others:
                letter = space.dimensions[place].letter(other)
                with_other = code[:place] + letter + code[place + 1 :]
                found.append(Comparison(pole, code, with_other, held))
    return tuple(c for c in found if c.chosen in answers and c.rejected in answers)


def _dimension(space: PreferenceSpace, pole: Pole) -> Dimension:
    return next(dimension for dimension in space.dimensions if pole in dimension.poles)


@dataclass(frozen=True)
class Verdict:
    """One reply of the pack's own experts, and what one blind reader saw in it."""

    prompt: str
    reply: str
    preference: str
    """Code of the preference that it was generated for, which the reader did not know."""
    shown: frozenset[str]
    """Names of the poles that the reader named; at most one of each dimension."""


def load_verdicts(file: Path, space: PreferenceSpace) -> tuple[Verdict, ...]:
    """Read a file of verdicts, which reward models learn from.

    A line is one reply: ``{"prompt", "preference", "strengths", "reply", "shown", "quality"}``.
    ``shown`` has one letter a dimension: of the pole that a reader named who saw the prompt and
    the reply alone, ``-`` for neither.

    Raises:
        PackError: names the line and what is wrong with it.
    """
    return _rows("verdicts.file", file, lambda place, line: _verdict(place, line, space))


def _verdict(place: str, line: str, space: PreferenceSpace) -> Verdict:
    try:
        row = json.loads(line)
        prompt, reply, shown = row["prompt"], row["reply"], row["shown"]
        code = space.parse(row["preference"]).code
        letters = list(zip(space.dimensions, str(shown), strict=True))
        named = {d.by_letter(letter).name for d, letter in letters if letter != LEFT_OUT}
    except (ValueError, KeyError, TypeError, MPDError) as error:
        raise PackError(f"{place}: not a reply with what a reader saw ({error}).") from None
    if not all(isinstance(text, str) and text.strip() for text in (prompt, reply)):
        raise PackError(f"{place}: the prompt and the reply must be text.")
    return Verdict(prompt, reply, code, frozenset(named))
