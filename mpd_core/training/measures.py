"""Measures of a text that no model of ours was trained on."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from statistics import fmean
from typing import Any

import textstat
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
from wordfreq import zipf_frequency

RARE_ZIPF = 3.5
"""Words met less than about three times in a million words."""
LOOP_WORDS, LOOP_TIMES = 4, 3


def words(text: str) -> list[str]:
    """Lower-case words without punctuation."""
    return re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", text.lower())


def length(text: str) -> float:
    """Words."""
    return float(len(words(text)))


def grade(text: str) -> float:
    """Automated Readability Index: about the school grade that reads it with ease."""
    return float(textstat.automated_readability_index(text)) if words(text) else 0.0


def rare_share(text: str) -> float:
    """Share of words that are rare in English."""
    found = words(text)
    return sum(zipf_frequency(w, "en") < RARE_ZIPF for w in found) / len(found) if found else 0.0


def sentiment(text: str) -> float:
    """VADER's compound score (Hutto and Gilbert, 2014), -1 to 1: stands in for politeness.

    The mean over sentences, which it was made for: of a whole text it nears 1 or -1 with length.
    """
    sentences = [part for part in re.split(r"(?<=[.!?])\s+|\n+", text) if part.strip()]
    scores = [float(_vader().polarity_scores(part)["compound"]) for part in sentences]
    return fmean(scores) if scores else 0.0


def loops(text: str) -> bool:
    """Whether four words in a row are said more than three times."""
    return max(_runs(text).values(), default=0) > LOOP_TIMES


def repeated(text: str) -> float:
    """Share of a text's runs of four words that were there before, 0 to 1."""
    runs = _runs(text)
    return 1.0 - len(runs) / runs.total() if runs else 0.0


def _runs(text: str) -> Counter[tuple[str, ...]]:
    """How often four words stand in a row."""
    found = words(text)
    return Counter(zip(*(found[k:] for k in range(LOOP_WORDS)), strict=False))


MEASURES: Mapping[str, Callable[[str], float]] = {
    "words": length,
    "grade": grade,
    "rare": rare_share,
    "sentiment": sentiment,
}


def signed(name: str) -> Callable[[str], float]:
    """``grade`` or ``-grade``: a measure, or how little there is of it.

    Raises:
        KeyError: no such measure.
    """
    measure, sign = MEASURES[name.removeprefix("-")], -1.0 if name.startswith("-") else 1.0
    return lambda text: sign * measure(text)


class MeasureReward:
    """A measure as a reward of a pole: an off-the-shelf scorer behind the interface of all."""

    def __init__(self, name: str) -> None:
        """``grade`` rewards hard reading, ``-grade`` easy reading."""
        self._measure = signed(name)

    def __call__(self, prompts: Sequence[str], replies: Sequence[str]) -> list[float]:
        """One score a reply, whatever was asked."""
        return [self._measure(reply) for _, reply in zip(prompts, replies, strict=True)]


@cache
def _vader() -> Any:
    return SentimentIntensityAnalyzer()
