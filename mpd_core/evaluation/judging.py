"""Verdicts on pairs of replies: one dimension at a time, in both orders, each stored in a line.

A judge sees a prompt, the sentence that asks for the chosen pole, and two replies; it does not see
who wrote them. Any judge with the methods of ``PairJudge`` can be asked.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from tqdm import tqdm

from mpd_core.evaluation.meetings import meetings
from mpd_core.evaluation.store import Lines, Row, content_hash, read_rows
from mpd_core.method.preferences import PreferenceSpace

VERDICTS, SINGLES = "verdicts-{judge}.jsonl", "singles-{judge}.jsonl"
READERS = "readers"
"""The judge who sees a pair in one order, which chance has chosen, and judges it as a whole too."""
WHOLE = "whole reply"
"""In place of a dimension; no dimension can have this name."""
SEED = 0
Asked = TypeVar("Asked")
"""A question of whatever kind."""
NAMES = {1: "win", 0: "tie", -1: "lose"}
UNREAD = "unread"


@dataclass(frozen=True)
class Question:
    """Which of two replies shows a pole better?"""

    prompt: str
    dimension: str
    pole: str
    instruction: str
    first: str
    second: str

    @property
    def swapped(self) -> Question:
        return Question(
            self.prompt, self.dimension, self.pole, self.instruction, self.second, self.first
        )


@dataclass(frozen=True)
class Answer:
    """1: the first reply does; 0: a tie; -1: the second does; with what the judge said."""

    verdict: int | None
    """None: what was said could not be read."""
    raw: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    """More that is stored with it."""


class Named(Protocol):
    """A judge's identity."""

    @property
    def name(self) -> str:
        """Name, used in file names."""

    @property
    def version(self) -> str:
        """Changes with anything that could change an answer: part of what answers are cached by."""


class PairJudge(Named, Protocol):
    """Interface of a judge of pairs."""

    def knows(self, dimension: str) -> bool:
        """Whether it can judge this dimension."""

    def answers(self, questions: Sequence[Question]) -> Iterator[tuple[Question, Answer]]:
        """Verdicts from the view of the first reply, in any order; each is stored as it comes."""


@dataclass(frozen=True)
class Signature:
    """Identity of a judge read from stored verdicts."""

    name: str
    version: str


@dataclass(frozen=True)
class Pair:
    """Two methods' replies to one prompt under one preference."""

    id: str
    code: str
    first: str
    second: str
    questions: Mapping[str, Question]
    """By dimension."""
    longer_by: int
    """Word count of the first minus that of the second."""

    @property
    def whole(self) -> Question:
        """Which reply is better for one who wants all of the poles?"""
        one = next(iter(self.questions.values()))
        return replace(one, dimension=WHOLE, pole=self.code, instruction="")


def pairs_of(
    space: PreferenceSpace, replies: Sequence[Row], methods: Sequence[str]
) -> Iterator[Pair]:
    """All pairs of replies whose methods are compared."""
    said = {(row["id"], row["code"], row["method"]): row for row in replies}
    asked = dict.fromkeys((row["id"], row["code"]) for row in replies)
    for (prompt, code), (first, second) in itertools.product(asked, meetings(methods)):
        one, other = said.get((prompt, code, first)), said.get((prompt, code, second))
        if one and other:
            chosen = space.parse(code)
            questions = {
                dimension.name: Question(
                    *(one["prompt"], dimension.name, pole.name, pole.instruction),
                    *(one["text"], other["text"]),
                )
                for dimension, pole in zip(chosen.dimensions, chosen.choices, strict=True)
                if pole is not None
            }
            longer = len(one["text"].split()) - len(other["text"].split())
            yield Pair(prompt, code, first, second, questions, longer)


def drawn(pairs: Sequence[Asked], count: int | None) -> list[Asked]:
    """A sample of the pairs without replacement, by a fixed seed; None: all pairs."""
    if count is None or count >= len(pairs):
        return list(pairs)
    return random.Random(SEED).sample(list(pairs), count)


def judge_pairs(judge: PairJudge, pairs: Sequence[Pair], folder: Path) -> None:
    """Judge both orders of every pair that has no stored verdict yet.

    Raises:
        MPDError: whatever stops the judge; what it had said until then is stored.
    """
    with Lines(folder / VERDICTS.format(judge=judge.name)).writing() as lines:
        waiting: dict[Question, Pair] = {}
        for pair, question in _questions(judge, pairs):
            if key_of(judge, question) in lines.rows:
                continue
            if question.first == question.second:
                lines.add(pair_row(judge, pair, question, Answer(0, "the same text")))
            else:
                waiting.setdefault(question, pair)
        ask(
            lines,
            judge.answers,
            waiting,
            "verdicts",
            lambda q, a: pair_row(judge, waiting[q], q, a),
        )


def ask(
    lines: Lines,
    answers: Callable[[Sequence[Asked]], Iterable[tuple[Asked, Answer]]],
    waiting: Iterable[Asked],
    said: str,
    row: Callable[[Asked, Answer], Row],
) -> None:
    """Store answers to all that waits as they come, with a progress bar."""
    asked = list(waiting)
    with tqdm(total=len(asked), desc=said, leave=False) as bar:
        for one, answer in answers(asked) if asked else ():
            lines.add(row(one, answer))
            bar.update()


def unasked(judge: PairJudge, pairs: Sequence[Pair], folder: Path) -> list[Question]:
    """What ``judge_pairs`` would ask."""
    asked = (question for _, question in _questions(judge, pairs))
    return without_answer(judge, (q for q in asked if q.first != q.second), folder, VERDICTS)


def without_answer(judge: Named, asked: Iterable[Asked], folder: Path, file: str) -> list[Asked]:
    """What has no stored answer of a judge yet, each once."""
    stored = {row["key"] for row in read_rows(folder / file.format(judge=judge.name))}
    return [one for one in dict.fromkeys(asked) if key_of(judge, one) not in stored]


def _questions(judge: PairJudge, pairs: Sequence[Pair]) -> Iterator[tuple[Pair, Question]]:
    for pair in pairs:
        for name, question in pair.questions.items():
            if judge.knows(name):
                yield pair, question
                yield pair, question.swapped


def key_of(judge: Named, asked: Any) -> str:
    """Cache key: a hash of the judge and all it sees, e.g. a ``Question``."""
    return content_hash([judge.name, judge.version, *astuple(asked)])[:32]


def pair_row(judge: Named, pair: Pair, question: Question, answer: Answer) -> Row:
    """What is stored of an answer about a pair, in either order."""
    swapped = question.first != pair.whole.first
    methods = (pair.second, pair.first) if swapped else (pair.first, pair.second)
    return {
        "key": key_of(judge, question),
        "judge": judge.name,
        "version": judge.version,
        "id": pair.id,
        "code": pair.code,
        "dimension": question.dimension,
        "pole": question.pole,
        "first": methods[0],
        "second": methods[1],
        "verdict": UNREAD if answer.verdict is None else NAMES[answer.verdict],
        "raw": answer.raw,
        **answer.facts,
    }
