"""Verdicts on single replies: which pole of each dimension a judge recognises.

Toggle identification by judges other than the text measures, which need no store.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from tqdm import tqdm

from mpd_core.evaluation.judging import UNREAD, Answer, Named, key_of
from mpd_core.evaluation.measures import Scorer
from mpd_core.evaluation.store import Lines, Row, read_rows
from mpd_core.method.preferences import Dimension, PreferenceSpace

SINGLES = "singles-{judge}.jsonl"
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
        _single(row["prompt"], row["text"], dimension)
        for row in replies
        for dimension, pole in _chosen(space, row["code"])
        if pole
    ]
    return list(dict.fromkeys(found))


def _chosen(space: PreferenceSpace, code: str) -> list[tuple[Dimension, bool]]:
    preference = space.parse(code)
    pairs = zip(preference.dimensions, preference.choices, strict=True)
    return [(dimension, pole is not None) for dimension, pole in pairs]


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
        waiting = [single for single in asked if key_of(judge, single) not in lines.rows]
        if not waiting:
            return
        with tqdm(total=len(waiting), desc="single replies", leave=False) as bar:
            for single, answer in judge.singles(waiting):
                lines.add(_row(judge, single, answer))
                bar.update()


def unasked(judge: Named, asked: Sequence[Single], folder: Path) -> list[Single]:
    """What ``judge_singles`` would ask."""
    stored = {row["key"] for row in read_rows(folder / SINGLES.format(judge=judge.name))}
    return [single for single in asked if key_of(judge, single) not in stored]


def scorer_of(judge: Named, space: PreferenceSpace, folder: Path) -> Scorer:
    """A scorer that looks up a judge's stored verdicts; replies without one have no entry."""
    rows = read_rows(folder / SINGLES.format(judge=judge.name))
    stored = {row["key"]: row["verdict"] for row in rows if row["verdict"] != UNREAD}

    def verdicts(prompt: str, text: str) -> dict[str, str | None]:
        found: dict[str, str | None] = {}
        for dimension in space.dimensions:
            said = stored.get(key_of(judge, _single(prompt, text, dimension)))
            if said is not None:
                found[dimension.name] = None if said == NEITHER else said
        return found

    return verdicts


def _row(judge: Named, single: Single, answer: Answer) -> Row:
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
