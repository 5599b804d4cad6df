"""Verdicts on pairs and on single replies, one dimension at a time; each is stored in a line.

A judge sees a prompt, the sentence that asks for the chosen pole, and two replies in both orders,
or all poles of a dimension and one reply; it does not see who wrote them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from mpd_core.evaluation.record import Lines, Row, meetings, read_rows
from mpd_core.method.preferences import PreferenceSpace
from mpd_core.saving import content_hash

VERDICTS, SINGLES = "verdicts-{judge}.jsonl", "singles-{judge}.jsonl"
READERS = "readers"
"""The judge who sees a pair in one order, which chance has chosen, and judges it as a whole too."""
WRITTEN = "written"
"""In place of a method: an answer whose poles are known, which tells how well judges read."""
WHOLE = "whole reply"
"""In place of a dimension; no dimension can have this name."""
WINS = {1: "win", 0: "tie", -1: "lose"}
NEITHER, UNREAD = "neither", "unread"


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
        return replace(self, first=self.second, second=self.first)

    @property
    def alike(self) -> bool:
        """Whether both texts are the same, of which no judge is asked."""
        return self.first == self.second


@dataclass(frozen=True)
class Single:
    """Which of these poles does a reply show?"""

    prompt: str
    text: str
    dimension: str
    poles: tuple[str, ...]
    instructions: tuple[str, ...]


Asked = TypeVar("Asked", Question, Single)


@dataclass(frozen=True)
class Answer:
    """A verdict with what the judge said.

    On a pair 1: the first reply is better; 0: a tie; -1: the second is. On a single reply the
    number of the pole that shows, from 1; 0: neither.
    """

    verdict: int | None
    """None: what was said could not be read."""
    raw: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    """More that is stored with it."""


class Judge:
    """Who judges; this class itself is one of whom there are only stored verdicts."""

    costs = reads_singles = False
    """Whether an answer costs money; whether it judges single replies, too."""

    def __init__(self, name: str, version: str) -> None:
        """``version`` changes with all that could change an answer: answers are cached by it."""
        self.name, self.version = name, version

    def knows(self, dimension: str) -> bool:
        """Whether it can judge pairs in this dimension."""
        del dimension
        return True

    def announce(self, questions: Sequence[Question], singles: Sequence[Single]) -> None:
        """Say what all of this will cost, before any of it is asked."""

    def answers(self, questions: Sequence[Question]) -> Iterator[tuple[Question, Answer]]:
        """Verdicts on pairs, in any order; each is stored as it comes."""
        raise NotImplementedError

    def singles(self, asked: Sequence[Single]) -> Iterator[tuple[Single, Answer]]:
        """Verdicts on single replies, where it ``reads_singles``."""
        raise NotImplementedError


@dataclass(frozen=True)
class Pair:
    """Two methods' replies to one prompt under one preference."""

    id: str
    code: str
    first: str
    second: str
    questions: Mapping[str, Question]
    """By dimension."""

    @property
    def longer_by(self) -> int:
        """Word count of the first reply minus that of the second."""
        return len(self.whole.first.split()) - len(self.whole.second.split())

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
            texts = one["text"], other["text"]
            questions = {
                name: Question(one["prompt"], name, pole.name, pole.instruction, *texts)
                for name, pole in space.parse(code).chosen.items()
            }
            yield Pair(prompt, code, first, second, questions)


def singles_of(space: PreferenceSpace, replies: Iterable[Row]) -> list[Single]:
    """Questions about all replies in all chosen dimensions, without duplicates."""
    found = (
        single
        for row in replies
        for single in singles_of_reply(space, row["prompt"], row["text"])
        if single.dimension in space.parse(row["code"]).chosen
    )
    return [*dict.fromkeys(found)]


def singles_of_reply(space: PreferenceSpace, prompt: str, text: str) -> list[Single]:
    """One question for each dimension, chosen or not."""
    return [
        Single(
            *(prompt, text, dimension.name),
            tuple(pole.name for pole in dimension.poles),
            tuple(pole.instruction for pole in dimension.poles),
        )
        for dimension in space.dimensions
    ]


def questions_of(judge: Judge, pairs: Iterable[Pair]) -> dict[Question, Pair]:
    """What a judge is asked about pairs, in both orders, each with the first pair that it is of."""
    found: dict[Question, Pair] = {}
    for pair in pairs:
        for name, question in pair.questions.items():
            if judge.knows(name):
                found.setdefault(question, pair)
                found.setdefault(question.swapped, pair)
    return found


def unasked(judge: Judge, asked: Iterable[Asked], folder: Path, file: str) -> list[Asked]:
    """What has no stored answer of a judge in ``VERDICTS`` or ``SINGLES`` yet, each once."""
    stored = {row["key"] for row in read_rows(folder / file.format(judge=judge.name))}
    return [one for one in dict.fromkeys(asked) if key_of(judge, one) not in stored]


def judge_pairs(judge: Judge, pairs: Iterable[Pair], folder: Path) -> None:
    """Judge both orders of every pair that has no stored verdict yet.

    Raises:
        MPDError: whatever stops the judge; what it had said until then is stored.
    """
    asked = questions_of(judge, pairs)

    def answers(waiting: Sequence[Question]) -> Iterator[tuple[Question, Answer]]:
        yield from ((q, Answer(0, "the same text")) for q in waiting if q.alike)
        if others := [q for q in waiting if not q.alike]:
            yield from judge.answers(others)

    _store(judge, asked, folder, VERDICTS, answers, lambda q, a: pair_row(judge, asked[q], q, a))


def judge_singles(judge: Judge, asked: Iterable[Single], folder: Path) -> None:
    """Judge all single replies that have no stored verdict yet; errors as ``judge_pairs``."""
    _store(judge, asked, folder, SINGLES, judge.singles, partial(single_row, judge))


def _store(
    judge: Judge,
    asked: Iterable[Asked],
    folder: Path,
    file: str,
    answers: Callable[[Sequence[Asked]], Iterable[tuple[Asked, Answer]]],
    row: Callable[[Asked, Answer], Row],
) -> None:
    """Store answers as they come, with a progress bar; nobody is asked nothing."""
    with Lines(folder / file.format(judge=judge.name)).writing() as lines:
        waiting = unasked(judge, asked, folder, file)
        found = answers(waiting) if waiting else ()
        for one, answer in tqdm(found, judge.name, len(waiting), leave=False):
            lines.add(row(one, answer))


def key_of(judge: Judge, asked: Question | Single) -> str:
    """Cache key: a hash of the judge and all it sees."""
    return content_hash([judge.name, judge.version, *astuple(asked)])[:32]


def pair_row(judge: Judge, pair: Pair, question: Question, answer: Answer) -> Row:
    """What is stored of an answer about a pair, in either order."""
    swapped = question.first != pair.whole.first
    first, second = (pair.second, pair.first) if swapped else (pair.first, pair.second)
    about = {"id": pair.id, "code": pair.code, "dimension": question.dimension}
    about |= {"pole": question.pole, "first": first, "second": second}
    return _row(judge, question, answer, WINS, **about)


def single_row(judge: Judge, single: Single, answer: Answer) -> Row:
    """What is stored of an answer about one reply."""
    names = dict(enumerate((NEITHER, *single.poles)))
    return _row(judge, single, answer, names, dimension=single.dimension)


def _row(judge: Judge, asked: Any, answer: Answer, names: Mapping[int, str], **about: str) -> Row:
    verdict = UNREAD if answer.verdict is None else names[answer.verdict]
    who = {"key": key_of(judge, asked), "judge": judge.name, "version": judge.version}
    return {**who, **about, "verdict": verdict, "raw": answer.raw, **answer.facts}
