"""Verdicts on pairs of replies: one dimension at a time, in both orders, each stored in a line.

A judge sees a prompt, the sentence that asks for the chosen pole, and two replies; it does not see
who wrote them. Any judge with the methods of ``PairJudge`` can be asked.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Protocol

from tqdm import tqdm

from mpd_core.engine.plan import ONE_EXPERT
from mpd_core.evaluation.measures import TextJudge, empty
from mpd_core.evaluation.statistics import both_orders
from mpd_core.evaluation.store import Lines, Row, read_rows
from mpd_core.method.preferences import PreferenceSpace
from mpd_core.training.measures import loops

VERDICTS = "verdicts-{judge}.jsonl"
MAIN = "mpd"
NAMES = {1: "win", 0: "tie", -1: "lose"}


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

    verdict: int
    raw: str


class PairJudge(Protocol):
    """Whoever can be asked."""

    name: str
    version: str
    """Changes with anything that could change an answer: part of what answers are cached by."""

    def knows(self, dimension: str) -> bool:
        """Whether it judges this dimension at all."""

    def ask(self, question: Question) -> Answer:
        """The verdict, from the view of the first reply."""


class MeasuresJudge:
    """Pairs by the text measures: a reply that names its pole beats one that shows neither.

    A reply that is empty, or goes round in a loop, shows nothing, whatever it measures.
    """

    name = "measures"

    def __init__(self, judge: TextJudge) -> None:
        self._judge = judge
        self._known = {dimension.name for dimension in judge.dimensions}
        self.version = judge.version

    def knows(self, dimension: str) -> bool:
        return dimension in self._known

    def ask(self, question: Question) -> Answer:
        first = self._credit(question, question.first)
        second = self._credit(question, question.second)
        return Answer((first > second) - (first < second), f"{first:g} : {second:g}")

    def _credit(self, question: Question, text: str) -> float:
        if empty(text) or loops(text):
            return 0.0
        shown = self._judge(question.prompt, text)[question.dimension]
        return 0.5 if shown is None else float(shown == question.pole)


@dataclass(frozen=True)
class Pair:
    """Two replies to one prompt under one preference, and who wrote them."""

    id: str
    code: str
    first: str
    second: str
    questions: Mapping[str, Question]
    """By dimension."""
    longer_by: int
    """Words of the first less those of the second."""


@dataclass(frozen=True)
class Judged:
    """A pair with the verdicts of both orders made one."""

    pair: Pair
    verdicts: Mapping[str, int]
    """By dimension, from the view of the first."""
    flipped: Mapping[str, bool]


def meetings(methods: Sequence[str]) -> list[tuple[str, str]]:
    """Who meets whom: everybody, but of single experts each meets only MPD."""
    main = MAIN if MAIN in methods else methods[0]
    ordered = [main, *(method for method in methods if method != main)]
    return [
        (first, second)
        for first, second in itertools.combinations(ordered, 2)
        if first == main or (not second.startswith(ONE_EXPERT) and not first.startswith(ONE_EXPERT))
    ]


def pairs_of(
    space: PreferenceSpace, replies: Sequence[Row], methods: Sequence[str]
) -> Iterator[Pair]:
    """Every pair of replies of methods that meet."""
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


def judge_pairs(judge: PairJudge, pairs: Sequence[Pair], folder: Path) -> None:
    """Ask both orders of every pair that has no stored verdict yet."""
    with Lines(folder / VERDICTS.format(judge=judge.name)).writing() as lines:
        asked = [
            (pair, question)
            for pair in pairs
            for name, known in pair.questions.items()
            if judge.knows(name)
            for question in (known, known.swapped)
        ]
        for pair, question in tqdm(asked, desc="verdicts", leave=False):
            key = key_of(judge, question)
            if key not in lines.rows:
                lines.add(_row(judge, key, pair, question))


def key_of(judge: PairJudge, question: Question) -> str:
    """Of the judge and of all that it sees."""
    content = json.dumps([judge.name, judge.version, *astuple(question)], ensure_ascii=False)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _row(judge: PairJudge, key: str, pair: Pair, question: Question) -> Row:
    same = question.first == question.second
    answer = Answer(0, "the same text") if same else judge.ask(question)
    swapped = question.first != pair.questions[question.dimension].first
    methods = (pair.second, pair.first) if swapped else (pair.first, pair.second)
    return {
        "key": key,
        "judge": judge.name,
        "version": judge.version,
        "id": pair.id,
        "code": pair.code,
        "dimension": question.dimension,
        "pole": question.pole,
        "first": methods[0],
        "second": methods[1],
        "verdict": NAMES[answer.verdict],
        "raw": answer.raw,
    }


def judged(judge: PairJudge, pairs: Sequence[Pair], folder: Path) -> list[Judged]:
    """All pairs with stored verdicts of both orders."""
    values = {name: value for value, name in NAMES.items()}
    file = folder / VERDICTS.format(judge=judge.name)
    stored = {row["key"]: values[row["verdict"]] for row in read_rows(file)}
    found = []
    for pair in pairs:
        merged = {
            name: both_orders(stored[one], stored[other])
            for name, question in pair.questions.items()
            if (one := key_of(judge, question)) in stored
            and (other := key_of(judge, question.swapped)) in stored
        }
        if merged:
            verdicts = {name: verdict for name, (verdict, _) in merged.items()}
            flips = {name: flip for name, (_, flip) in merged.items()}
            found.append(Judged(pair, verdicts, flips))
    return found
