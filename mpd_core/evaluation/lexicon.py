"""A lexicon of a scale: which words speak for either end, learned by counting.

Two kinds of evidence. ``words`` add up over a whole text: what it is like. ``remarks``, words and
pairs of neighbours, are added up in each sentence alone, so that one kind word or one jab counts
however long the plain rest is. Punctuation has no part in either.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mpd_core.evaluation.cues import sentences
from mpd_core.evaluation.wordlists import STATES
from mpd_core.training import measures

Weights = Mapping[str, float]
ENDS = (-1, 1)
FEWEST_TEXTS, SMOOTH, LEAST_Z, DIGITS = 15, 2.0, 3.0, 2
START, STOP, ASKED = "^", "$", "?"
PLAIN = STATES | {START, STOP}
"""Say nothing alone or together: a small model denies things ("it is not") in earnest."""
NAMES = tuple(
    f"{end}_{part}" for end in ("low", "high") for part in ("most", "first", "last", "words")
)
"""Cues of a lexicon: a text's strongest sentence, its first, its last, and all its words."""


@dataclass(frozen=True)
class Lexicon:
    """Log-odds of showing an end where a word is there against where it is not."""

    low_words: Weights
    high_words: Weights
    low_remarks: Weights
    high_remarks: Weights

    def cues(self, text: str) -> list[float]:
        """Of a settled text, in the order of ``NAMES``."""
        spoken = [remarks(part) for part in sentences(text)] or [set()]
        said = words(text)
        values: list[float] = []
        for all_over, at_once in (
            (self.low_words, self.low_remarks),
            (self.high_words, self.high_remarks),
        ):
            sharp = [_sum(at_once, found) / math.sqrt(len(found) + 2) for found in spoken]
            whole = _sum(all_over, said) / math.sqrt(len(said) + 1)
            values += [max(sharp), sharp[0], sharp[-1], whole]
        return values


def words(text: str) -> set[str]:
    """The words of a text, each once."""
    return set(measures.words(text))


def remarks(sentence: str) -> set[str]:
    """Its words, neighbours, its first and last word, and whether it is a question."""
    end = ASKED if sentence.rstrip().endswith(ASKED) else STOP
    found = [START, *measures.words(sentence), end]
    return {*found[1:], *(f"{one} {other}" for one, other in itertools.pairwise(found))}


def learn(plain: Sequence[tuple[str, int]], with_remarks: Sequence[tuple[str, int]]) -> Lexicon:
    """Count in texts whose end is known (-1, 0 or 1); with remarks: in addition to the plain."""
    every = [*plain, *with_remarks]
    whole = [_weights(plain, words, end) for end in ENDS]
    sharp = [_weights(every, _spoken, end) for end in ENDS]
    return Lexicon(*whole, *({k: w for k, w in one.items() if w > 0} for one in sharp))


def _spoken(text: str) -> set[str]:
    return {found for part in sentences(text) for found in remarks(part)}


def _weights(
    labelled: Sequence[tuple[str, int]], read: Callable[[str], set[str]], end: int
) -> dict[str, float]:
    """Of what stands in enough texts, and in those of this end clearly more or less often."""
    inside: Counter[str] = Counter()
    outside: Counter[str] = Counter()
    for text, label in labelled:
        (inside if label == end else outside).update(
            word for word in read(text) if not PLAIN.issuperset(word.split())
        )
    sizes = [sum((label == end) == own for _, label in labelled) for own in (True, False)]
    return dict(_clear(inside, outside, *sizes))


def _clear(
    inside: Counter[str], outside: Counter[str], own: int, others: int
) -> Iterator[tuple[str, float]]:
    for word in sorted({*inside, *outside}):
        here, there = inside[word], outside[word]
        if here + there < FEWEST_TEXTS:
            continue
        odds = math.log((here + SMOOTH) / (own + 2 * SMOOTH))
        odds -= math.log((there + SMOOTH) / (others + 2 * SMOOTH))
        error = math.sqrt(1 / (here + SMOOTH) + 1 / (there + SMOOTH))
        if abs(odds) > LEAST_Z * error:
            yield word, round(odds, DIGITS)


def _sum(weights: Weights, found: Collection[str]) -> float:
    return math.fsum(weights.get(word, 0.0) for word in found)
