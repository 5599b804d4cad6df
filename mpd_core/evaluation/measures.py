"""An automatic judge that no model here was trained on: which pole of a dimension a text shows.

Its scales (see ``scales``) are fitted on the written answers' surface measures and are not a neural
model. Which scale belongs to which pole is the pack's choice: ``[measures]`` in its recipe, or the
usual names where it has no recipe. A dimension whose poles are not all measured has no measure.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from mpd_core.errors import PackError
from mpd_core.evaluation.judging import Answer, Judge, Question
from mpd_core.evaluation.scales import BUILT_IN, FEWEST_WORDS, FILE, Scale, load_scales
from mpd_core.evaluation.topic import Topic
from mpd_core.method.preferences import PreferenceSpace
from mpd_core.packs import Pack
from mpd_core.training import measures as plain
from mpd_core.training.measures import loops, words
from mpd_core.training.recipe import FILE as RECIPE
from mpd_core.training.recipe import load_recipe

Verdicts = Mapping[str, str | None]
"""By dimension, the pole that a text shows; None: neither."""
Scorer = Callable[[str, str], Verdicts]
"""Verdicts on a prompt and its reply."""
FITTED = "Fitted on the written answers' surface measures, not a neural model."
OPENING_WORDS = 12
REFUSALS = re.compile(
    r"\bi(?:'m| am) unable\b|\bi (?:can't|cannot|can not|won't) (?:help|answer|assist|provide)\b|"
    r"\b(?:as|i(?:'m| am)(?: only| just)?) an? (?:ai|artificial intelligence|language model)\b"
)
"""Openings of replies that refuse to answer."""

USUAL: Mapping[str, str] = {
    "elementary": "-grade",
    "knowledgeable": "grade",
    "concise": "-words",
    "informative": "words",
    "friendly": "sentiment",
    "unfriendly": "-sentiment",
}
"""The paper's poles, for packs without a recipe."""
RULES = 3
"""Version of the rules below; raise it when they change, so that stored verdicts are not reused."""
TOPIC = " topic"
"""End of the version where word vectors were installed."""
OFF_TOPIC = 0.0
"""Cosine of instruction and reply below which a reply speaks of something else: so does one written
answer of a hundred, and of answers to another instruction four of ten."""


class TextJudge:
    """Recognises poles in a text by scales of surface measures."""

    name = "measures"

    def __init__(
        self, space: PreferenceSpace, measures: Mapping[str, str], scales: Mapping[str, Scale]
    ) -> None:
        """``measures``: by pole, one that grows with it, ``grade``, or shrinks, ``-grade``; one
        without a scale counts as none."""
        scaled = {p: m for p, m in measures.items() if m.removeprefix("-") in scales}
        self.dimensions = tuple(
            d
            for d in space.dimensions
            if len(d.poles) > 1 and all(p.name in scaled for p in d.poles)
        )
        self.version = _version(scaled, scales)
        self._ends = {pole: end_of(measure) for pole, measure in scaled.items()}
        self._shows = {name: lru_cache(4096)(scale.shows) for name, scale in scales.items()}
        self._lean = {name: lru_cache(4096)(scale.lean) for name, scale in scales.items()}

    @classmethod
    def of(cls, pack: Pack) -> TextJudge:
        """With the pack's ``[measures]`` and its own ``scales.json``, or those built in.

        Raises:
            PackError: a recipe or scales that cannot be read, or an unknown measure.
        """
        own = pack.folder / FILE
        scales = load_scales(own if own.is_file() else BUILT_IN)
        return cls(pack.space, measures_of(pack), scales)

    def __call__(self, prompt: str, text: str) -> dict[str, str | None]:
        """The pole that a reply shows of each measured dimension; None: neither."""
        del prompt
        found: dict[str, str | None] = {}
        for name, poles in ((d.name, [p.name for p in d.poles]) for d in self.dimensions):
            ends = [(pole, *self._ends[pole]) for pole in poles]
            shown = [pole for pole, scale, end in ends if self._shows[scale](text) == end]
            # If several show, the one with the largest ``lean``.
            found[name] = max(shown, key=lambda pole: self.lean(pole, text), default=None)
        return found

    def forced(self, prompt: str, text: str) -> dict[str, str | None]:
        """The pole that a reply leans to of each measured dimension, however little; None: a tie.

        What a reader is left with who may not say "neither".
        """
        del prompt
        found: dict[str, str | None] = {}
        for name, poles in ((d.name, [p.name for p in d.poles]) for d in self.dimensions):
            most = max(poles, key=lambda pole: self.lean(pole, text))
            found[name] = most if self.lean(most, text) > 0 else None
        return found

    def lean(self, pole: str, text: str) -> float:
        """How much rather than its opposite end a text shows a pole, in log-odds."""
        measure, end = self._ends[pole]
        return end * self._lean[measure](text)

    @property
    def length_dimension(self) -> str | None:
        """The dimension whose poles are told by length, which no rate of it is corrected for."""
        by_length = (d.name for d in self.dimensions if self._ends[d.poles[0].name][0] == "words")
        return next(by_length, None)


def _version(measures: Mapping[str, str], scales: Mapping[str, Scale]) -> str:
    """Hash of all that a verdict depends on: poles, coefficients, and the cues' source files."""
    digest = hashlib.sha256(repr((sorted(measures.items()), sorted(scales.items()))).encode())
    here = Path(__file__).parent
    sources = [here / name for name in ("cues.py", "lexicon.py", "scales.py", "wordlists.py")]
    for source in (*sources, Path(plain.__file__)):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:12]


def end_of(measure: str) -> tuple[str, int]:
    """``-grade`` is the low end of ``grade``."""
    return measure.removeprefix("-"), -1 if measure.startswith("-") else 1


def measures_of(pack: Pack) -> dict[str, str]:
    """For each pole the measure that rises or (``-``) falls with it.

    Raises:
        PackError: a recipe that cannot be read, or two poles of a dimension with one measure.
    """
    if not (pack.folder / RECIPE).is_file():
        return dict(USUAL)
    chosen = load_recipe(pack).measures
    for dimension in pack.space.dimensions:
        named = [chosen[pole.name] for pole in dimension.poles if pole.name in chosen]
        if len(set(named)) < len(named):
            raise PackError(
                f"{pack.folder / RECIPE}: measures: two poles of '{dimension.name}' have the same "
                "measure: put - before that of its opposite."
            )
    return chosen


def empty(text: str) -> bool:
    """Whether a text is too short to show or answer anything."""
    return len(words(text)) < FEWEST_WORDS


def unanswered(prompt: str, text: str) -> bool:
    """Whether a reply is empty, begins with a refusal, or only repeats the prompt."""
    said = words(text)
    opening = " ".join(text.lower().replace("’", "'").split()[:OPENING_WORDS])
    return empty(text) or bool(REFUSALS.search(opening)) or set(said) <= set(words(prompt))


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
