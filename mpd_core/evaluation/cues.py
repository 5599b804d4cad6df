"""Cues of style on a text's surface, each a plain number that no neural model had a part in.

Rates are per word or per sentence and bounded, so that one odd reply cannot outweigh the rest. All
of them are meant for what ``settled`` leaves of a text.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from statistics import fmean

import textstat
from wordfreq import zipf_frequency

from mpd_core.evaluation.wordlists import COLLOQUIAL, CURT, PLAYFUL, WE, YOU
from mpd_core.training import measures
from mpd_core.training.measures import LOOP_TIMES, LOOP_WORDS

MOST_WORDS = 400
MOST_CHARACTERS = 20_000

JABS = re.compile(
    r"\b(?:that(?:'s| is) (?:all|it|that)|you (?:could|should|might) have|if you must|no one "
    r"(?:asked|cares|wants)|nobody (?:asked|cares)|not (?:that|hard|my|for you|your)|for once|"
    r"you (?:did|do|will|are|were) not|you (?:didn't|don't|won't|aren't|weren't)|of course you|"
    r"even you|people (?:who|like you)|do not (?:ask|bother|expect|tell)|don't (?:ask|bother|"
    r"expect|tell)|leave me|stop \w+ing|look it up|read (?:it|the|a)|your (?:fault|problem))\b"
)
"""Turns of phrase that snub the reader."""
SNUBS = re.compile(
    r"\byou(?: (?:\w+ )?(?:not|never)\b| \w+n't| would think|'d think)|"
    r"\b(?:which|as|since|because|whatever|unlike|even if) you\b|"
    r"\bif you (?:must|can|can't|cannot|think|insist|had|want|wanted|ever)\b|"
    r"\byou (?:were|are) (?:about|the one|clearly|probably|not|evidently)\b|"
    r"\b(?:did you|you asked|your question|asking|you wanted|you think|told you)\b|"
    r"\b(?:people|anyone) who\b"
)
"""What the reader is, did, or failed to do."""
FORBIDS = re.compile(
    r"(?:^|[.,;:!?]\s+|\b(?:so|and|then|but|please) )"
    r"(?:do not|don't|never|stop|quit|spare|leave it|no need)\b"
)
"""Orders not to do something; a mere denial ("it is not blue") is none."""
SIMILES = re.compile(r"\b(?:like (?:an?|the|your|my|little|tiny|two)|as \w+ as|think of|picture)\b")
SHORTENED = re.compile(r"\b\w+(?:n't|'s|'re|'ll|'ve|'m|'d)\b")
EMOJI = re.compile("[\u2600-\u27bf\U0001f300-\U0001faff]")
SENTENCE_ENDS = re.compile(r"(?<=[.!?])[\"')\]]*\s+|\n+")


def settled(text: str) -> str:
    """A reply without what a small model adds by accident: loops, repeated sentences, length.

    It ends before four words in a row are said more often than ``training.measures.loops``
    allows, and after 400 words.
    """
    seen: Counter[tuple[str, ...]] = Counter()
    recent: tuple[str, ...] = ()
    text = text[:MOST_CHARACTERS].replace("’", "'")
    for number, word in enumerate(re.finditer(r"\S+", text)):
        recent = (*recent, word.group().lower())[-LOOP_WORDS:]
        seen[recent] += len(recent) == LOOP_WORDS
        if seen[recent] > LOOP_TIMES or number == MOST_WORDS:
            text = text[: word.start()]
            break
    return " ".join(dict.fromkeys(sentences(text)))


def sentences(text: str) -> list[str]:
    """Parts that end with a full stop, a mark or a line."""
    return [part.strip() for part in SENTENCE_ENDS.split(text) if part.strip()]


def grade(text: str) -> float:
    """Automated Readability Index, -5 to 30: a text without full stops has no higher one."""
    return min(max(measures.grade(text), -5.0), 30.0)


def coleman_liau(text: str) -> float:
    """Coleman-Liau index, -5 to 30."""
    index = float(textstat.coleman_liau_index(text)) if measures.words(text) else 0.0
    return min(max(index, -5.0), 30.0)


def commonness(text: str) -> float:
    """Mean Zipf frequency of words of four letters and more (0: unknown, 7: the commonest)."""
    long = [word for word in _letters_only(text) if len(word) > 3]
    return fmean([zipf_frequency(word, "en") for word in long] or [5.0])


def numbers(text: str) -> float:
    """Share of words with a digit, at most 0.2."""
    said = measures.words(text)
    return _share(sum(any(c.isdigit() for c in word) for word in said), len(said), 0.2)


def log_words(text: str) -> float:
    """ln(1 + words)."""
    return math.log1p(measures.length(text))


def exclaimed(text: str) -> float:
    """Whether there is any exclamation mark."""
    return float("!" in text)


def closing_you(text: str) -> float:
    """Whether the last sentence speaks to the reader: where a jab or a wish stands."""
    last = (sentences(text) or [""])[-1]
    return float(any(word in YOU for word in measures.words(last)))


def _letters_only(text: str) -> list[str]:
    return [word for word in measures.words(text) if word.isalpha()]


def _share(found: float, of: int, most: float) -> float:
    return min(found / of, most) if of else 0.0


def _of_words(wanted: Collection[str]) -> Callable[[str], float]:
    def share(text: str) -> float:
        said = measures.words(text)
        return _share(sum(word in wanted for word in said), len(said), 0.2)

    return share


def _per_sentence(pattern: re.Pattern[str], most: float = 1.0) -> Callable[[str], float]:
    def rate(text: str) -> float:
        return _share(len(pattern.findall(text.lower())), len(sentences(text)), most)

    return rate


CUES: Mapping[str, Callable[[str], float]] = {
    "grade": grade,
    "coleman_liau": coleman_liau,
    "rare": measures.rare_share,
    "commonness": commonness,
    "numbers": numbers,
    "words": log_words,
    "sentiment": measures.sentiment,
    "exclaims": _per_sentence(re.compile("!"), 0.5),
    "exclaimed": exclaimed,
    "asks": _per_sentence(re.compile(r"\?")),
    "emoji": _per_sentence(EMOJI),
    "similes": _per_sentence(SIMILES),
    "jabs": _per_sentence(JABS),
    "snubs": _per_sentence(SNUBS),
    "forbids": _per_sentence(FORBIDS),
    "shortened": _per_sentence(SHORTENED),
    "playful": _of_words(PLAYFUL),
    "curt": _of_words(CURT),
    "colloquial": _of_words(COLLOQUIAL),
    "we": _of_words(WE),
    "closing_you": closing_you,
}
"""By the names that a scale's coefficients use."""
