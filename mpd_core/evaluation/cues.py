"""Cues of style on a text's surface, each a plain number that no neural model had a part in.

Rates are per word or per sentence and bounded, so that one odd reply cannot outweigh the rest. All
of them are meant for what ``settled`` leaves of a text.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from statistics import fmean

import textstat
from wordfreq import zipf_frequency

from mpd_core.evaluation.wordlists import COLLOQUIAL, CURT, PLAYFUL, WARM, YOU
from mpd_core.training import measures
from mpd_core.training.measures import LOOP_TIMES, LOOP_WORDS

MOST_WORDS = 400
MOST_CHARACTERS = 20_000

SHORTENED = re.compile(r"\b\w+(?:n't|'s|'re|'ll|'ve|'m|'d)\b")
EMOJI = re.compile("[\u20e3\u2600-\u27bf\u2b00-\u2bff\ufe0f\u200d\U0001f000-\U0001faff]")
FACES = re.compile(r"(?<![^\s.!?])(?:[:;=8]['o^-]?[)(\]\[DPp3/\\|*]+|<3+|[xX]D+)(?!\S)")
NOMINAL = re.compile(
    r".{3,}(?:[ts]ions?|ments?|ness|nesses|ity|ities|[ae]nces?|[ae]ncy|isms?|ys[ie]s|olog(?:y|ies)|"
    r"graphy|metry|ship|hood|acy)"
)
"""What verbs and adjectives become in formal prose, mostly by Latin and Greek endings."""
DERIVED = re.compile(
    r".{3,}(?:ic|ics|ical|ically|ally|al|ial|ially|ous|ously|ive|ively|ary|ular|ible|able|oids?|"
    r"ate|ates|ated|i[sz]es?|i[sz]ed|ify|ifies|ified|ose|ase|ine|ide|in)"
)
"""The endings of learned adjectives and verbs, and of substances."""
DENSE_LETTERS, DENSE_ZIPF = 8, 4.6
"""A word of a field: long, and met less than about 40 times in a million words."""
SMALL_LETTERS = 3
EXCLAIMED = re.compile(r"[.?!]*![.?!]*")
LIST_MARKS = re.compile(r"^[ \t]*(?:\d{1,2}[.)]|[-*•])[ \t]+", re.MULTILINE)
SENTENCE_ENDS = re.compile(r"(?<=[.!?])[\"')\]]*\s+|\n+")


def settled(text: str) -> str:
    """A reply without what a small model adds by accident: loops, repeated sentences, length.

    And without emoji and exclamation marks, which cost nothing to add, and the marks of a list's
    items, which are no numbers that are said. It ends before four words
    in a row are said more often than ``training.measures.loops`` allows, and after 400 words.
    """
    seen: Counter[tuple[str, ...]] = Counter()
    recent: tuple[str, ...] = ()
    text = calm(LIST_MARKS.sub("", text[:MOST_CHARACTERS].replace("’", "'")))
    for number, word in enumerate(re.finditer(r"\S+", text)):
        recent = (*recent, word.group().lower())[-LOOP_WORDS:]
        seen[recent] += len(recent) == LOOP_WORDS
        if seen[recent] > LOOP_TIMES or number == MOST_WORDS:
            text = text[: word.start()]
            break
    return " ".join(dict.fromkeys(sentences(text)))


def calm(text: str) -> str:
    """Full stops for exclamation marks, no emoji: what is left of a tone is in the words."""
    text = FACES.sub("", EMOJI.sub("", text))
    return EXCLAIMED.sub(lambda marks: "?" if "?" in marks.group() else ".", text)


def sentences(text: str) -> list[str]:
    """Parts with a word that end with a full stop, a mark or a line."""
    return [part.strip() for part in SENTENCE_ENDS.split(text) if measures.words(part)]


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


def dense(text: str) -> float:
    """Long and uncommon words' share of the sentence that has most of them.

    Of one sentence, since a reply may say its science between remarks to the reader.
    """
    return max((_dense(measures.words(part)) for part in sentences(text)), default=0.0)


def _dense(said: Sequence[str]) -> float:
    found = sum(
        len(word) >= DENSE_LETTERS and zipf_frequency(word, "en") < DENSE_ZIPF for word in said
    )
    return found / (len(said) + 3)


def small_words(text: str) -> float:
    """Share of words with at most three letters: the glue of plain sentences."""
    found = _letters_only(text)
    return _share(sum(len(w) <= SMALL_LETTERS for w in found), len(measures.words(text)), 1.0)


def log_words(text: str) -> float:
    """ln(1 + words)."""
    return math.log1p(measures.length(text))


def sentiment(text: str) -> float:
    """VADER's, which capitals would raise."""
    return measures.sentiment(text.lower())


def closing_you(text: str) -> float:
    """Whether the last sentence speaks to the reader: where a jab or a wish stands."""
    last = (sentences(text) or [""])[-1]
    return float(any(word in YOU for word in measures.words(last)))


def _letters_only(text: str) -> list[str]:
    return [word for word in measures.words(text) if word.isalpha()]


def _share(found: float, of: int, most: float) -> float:
    return min(found / of, most) if of else 0.0


def _ending(pattern: re.Pattern[str]) -> Callable[[str], float]:
    def share(text: str) -> float:
        found = [word for word in _letters_only(text) if pattern.fullmatch(word)]
        return _share(len(found), len(measures.words(text)), 1.0)

    return share


def _at_most(wanted: Collection[str]) -> Callable[[str], float]:
    """Share of the words of the sentence that has most of them."""

    def share(text: str) -> float:
        return max((_within(part, wanted) for part in sentences(text)), default=0.0)

    return share


def _at_ends(wanted: Collection[str]) -> Callable[[str], float]:
    """Shares of the first and the last sentence, added: where a remark to the reader stands."""

    def share(text: str) -> float:
        found = sentences(text) or [""]
        return _within(found[0], wanted) + _within(found[-1], wanted)

    return share


def _within(sentence: str, wanted: Collection[str]) -> float:
    said = measures.words(sentence)
    return sum(word in wanted for word in said) / (len(said) + 2)


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
    "nominal": _ending(NOMINAL),
    "derived": _ending(DERIVED),
    "dense": dense,
    "small_words": small_words,
    "words": log_words,
    "sentiment": sentiment,
    "asks": _per_sentence(re.compile(r"\?")),
    "shortened": _per_sentence(SHORTENED),
    "playful": _of_words(PLAYFUL),
    "curt": _of_words(CURT),
    "colloquial": _of_words(COLLOQUIAL),
    "closing_you": closing_you,
    "most_curt": _at_most(CURT),
    "most_warm": _at_most(WARM),
    "ends_curt": _at_ends(CURT),
    "ends_warm": _at_ends(WARM),
}
"""By the names that a scale's coefficients use."""
