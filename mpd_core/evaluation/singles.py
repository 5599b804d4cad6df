"""Verdicts on single replies: which pole of each dimension a judge recognises.

Toggle identification by judges other than the text measures, which need no store.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from mpd_core.evaluation.judging import (
    SINGLES,
    UNREAD,
    Answer,
    Named,
    ask,
    key_of,
    without_answer,
)
from mpd_core.evaluation.measures import Scorer
from mpd_core.evaluation.store import Lines, Row, read_rows
from mpd_core.method.preferences import Dimension, PreferenceSpace

NEITHER = "neither"


@dataclass(frozen=True)
class Single:
    """A question: which of these poles does the reply show?"""

    prompt: str
    text: str
    dimension: str
    poles: tuple[str, ...]
    instructions: tuple[str, ...]


@runtime_checkable
class SingleJudge(Named, Protocol):
    """Interface of a judge of single replies."""

    def singles(self, asked: Sequence[Single]) -> Iterator[tuple[Single, Answer]]:
        """A verdict is the number of a pole, from 1, or 0 for neither; in any order."""


def singles_of(space: PreferenceSpace, replies: Sequence[Row]) -> list[Single]:
    """Questions about all replies in all chosen dimensions, without duplicates."""
    found = [
        single
        for row in replies
        for single, pole in zip(
            singles_of_reply(space, row["prompt"], row["text"]),
            space.parse(row["code"]).choices,
            strict=True,
        )
        if pole
    ]
    return list(dict.fromkeys(found))


def singles_of_reply(space: PreferenceSpace, prompt: str, text: str) -> list[Single]:
    """One question for each dimension, chosen or not."""
    return [_single(prompt, text, dimension) for dimension in space.dimensions]


def _single(prompt: str, text: str, dimension: Dimension) -> Single:
    poles = dimension.poles
    names = tuple(pole.name for pole in poles)
    return Single(prompt, text, dimension.name, names, tuple(pole.instruction for pole in poles))


def judge_singles(judge: SingleJudge, asked: Sequence[Single], folder: Path) -> None:
    """Judge all single replies that have no stored verdict yet.

    Raises:
        MPDError: whatever stops the judge; what it had said until then is stored.
    """
    with Lines(folder / SINGLES.format(judge=judge.name)).writing() as lines:
        waiting = unasked(judge, asked, folder)
        ask(lines, judge.singles, waiting, "single replies", lambda s, a: single_row(judge, s, a))


def unasked(judge: Named, asked: Sequence[Single], folder: Path) -> list[Single]:
    """What ``judge_singles`` would ask."""
    return without_answer(judge, asked, folder, SINGLES)


def scorer_of(judge: Named, space: PreferenceSpace, folder: Path) -> Scorer:
    """A scorer that looks up a judge's stored verdicts; replies without one have no entry.

    Of a text that several readers have read, what most of them say; neither where no pole has most.
    """
    stored: dict[str, Counter[str]] = {}
    for row in read_rows(folder / SINGLES.format(judge=judge.name)):
        if row["verdict"] != UNREAD:
            stored.setdefault(row.get("asked") or row["key"], Counter())[row["verdict"]] += 1

    def verdicts(prompt: str, text: str) -> dict[str, str | None]:
        found: dict[str, str | None] = {}
        for single in singles_of_reply(space, prompt, text):
            if said := stored.get(key_of(judge, single)):
                (most, count), *rest = said.most_common()
                alone = not rest or rest[0][1] < count
                found[single.dimension] = most if alone and most != NEITHER else None
        return found

    return verdicts


def single_row(judge: Named, single: Single, answer: Answer) -> Row:
    """What is stored of an answer about one reply."""
    names = (NEITHER, *single.poles)
    return {
        "key": key_of(judge, single),
        "judge": judge.name,
        "version": judge.version,
        "dimension": single.dimension,
        "verdict": UNREAD if answer.verdict is None else names[answer.verdict],
        "raw": answer.raw,
        **answer.facts,
    }
