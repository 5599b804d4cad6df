"""The text measures as judge of pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mpd_core.evaluation.judging import Answer, Question
from mpd_core.evaluation.measures import TextJudge, unanswered
from mpd_core.training.measures import loops

RULES = 2
"""Of what beats what: raised where they change, so that verdicts by earlier ones are not reused."""


class MeasuresJudge:
    """Pairs by the text measures: a reply that names its pole beats one that shows neither.

    A reply that does not answer, or goes round in a loop, shows nothing, whatever it measures.
    """

    name = "measures"

    def __init__(self, judge: TextJudge) -> None:
        self._judge = judge
        self._known = {dimension.name for dimension in judge.dimensions}
        self.version = f"{judge.version} {RULES}"

    def knows(self, dimension: str) -> bool:
        return dimension in self._known

    def answers(self, questions: Sequence[Question]) -> Iterator[tuple[Question, Answer]]:
        return ((question, self.ask(question)) for question in questions)

    def ask(self, question: Question) -> Answer:
        """One verdict."""
        first = self._credit(question, question.first)
        second = self._credit(question, question.second)
        return Answer((first > second) - (first < second), f"{first:g} : {second:g}")

    def _credit(self, question: Question, text: str) -> float:
        if unanswered(question.prompt, text) or loops(text):
            return 0.0
        shown = self._judge(question.prompt, text)[question.dimension]
        return 0.5 if shown is None else float(shown == question.pole)
