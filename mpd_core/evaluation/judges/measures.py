"""The text measures as judge of pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

from mpd_core.evaluation.judging import Answer, Judge, Question
from mpd_core.evaluation.measures import TextJudge, unanswered
from mpd_core.evaluation.topic import Topic
from mpd_core.training.measures import loops

RULES = 3
"""Version of the rules below; raise it when they change, so that stored verdicts are not reused."""
TOPIC = " topic"
"""End of the version where word vectors were installed."""
OFF_TOPIC = 0.0
"""Cosine of instruction and reply below which a reply speaks of something else: so does one written
answer of a hundred, and of answers to another instruction four of ten."""


class MeasuresJudge(Judge):
    """Pairs by the text measures: a reply that names its pole beats one that shows neither.

    A reply that does not answer, speaks of something else, or goes round in a loop, shows nothing,
    whatever it measures.
    """

    def __init__(self, judge: TextJudge, topic: Topic | None = None) -> None:
        """Without a ``topic`` nobody looks at it, which is another judge by its version."""
        self._judge = judge
        self._similarity = lru_cache(4096)(topic.similarity) if topic else None
        self._known = {dimension.name for dimension in judge.dimensions}
        super().__init__("measures", f"{judge.version} {RULES}{TOPIC if topic else ''}")

    @classmethod
    def of(cls, judge: TextJudge) -> MeasuresJudge:
        """With the word vectors that are installed, if any."""
        return cls(judge, Topic.installed())

    @property
    def versions(self) -> tuple[str, str, str]:
        """Its own, and those of the same measures with word vectors and without."""
        plain = self.version.removesuffix(TOPIC)
        return self.version, plain + TOPIC, plain

    def knows(self, dimension: str) -> bool:
        """Whether all of its poles have a scale."""
        return dimension in self._known

    def answers(self, questions: Sequence[Question]) -> Iterator[tuple[Question, Answer]]:
        """In the order asked."""
        return ((question, self.ask(question)) for question in questions)

    def ask(self, question: Question) -> Answer:
        """One verdict."""
        first = self._credit(question, question.first)
        second = self._credit(question, question.second)
        return Answer((first > second) - (first < second), f"{first:g} : {second:g}")

    def _credit(self, question: Question, text: str) -> float:
        strays = self._similarity and self._similarity(question.prompt, text) < OFF_TOPIC
        if unanswered(question.prompt, text) or loops(text) or strays:
            return 0.0
        shown = self._judge(question.prompt, text)[question.dimension]
        return 0.5 if shown is None else float(shown == question.pole)
