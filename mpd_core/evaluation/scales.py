"""Scales between two ends, each a small logistic model over a text's cues, and how they are fitted.

A scale is named after the plain measure that it grew from (``grade``, ``words``, ``sentiment``: the
names that a recipe's ``[measures]`` uses) and tells three things apart, as a reader would: the text
shows the low end, the high end, or neither. Its coefficients were fitted on the written answers'
surface measures, those that experts learn from among them; there is no neural model in it, and none
was trained on it.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpd_core.errors import PackError
from mpd_core.evaluation.cues import CUES, settled
from mpd_core.evaluation.lexicon import NAMES as LEXICAL
from mpd_core.evaluation.lexicon import Lexicon, learn
from mpd_core.evaluation.remarks import dressed
from mpd_core.training.measures import words

Floats = NDArray[np.float64]
Labelled = Sequence[tuple[str, int]]
"""Texts, each with the end of a scale that it shows."""

LOW, NEITHER, HIGH = -1, 0, 1
FEWEST_WORDS = 3
"""Of a text that can show anything."""
RIDGE, NEWTON_STEPS, DIGITS = 10.0, 60, 5
BUILT_IN = Path(__file__).with_name("scales.json")
FILE = "scales.json"

EXTENDED: Mapping[str, tuple[str, ...]] = {
    "grade": (
        *("grade", "coleman_liau", "commonness", "rare", "numbers"),
        *("nominal", "derived", "dense", "small_words"),
    ),
    "sentiment": (
        *("sentiment", "asks", "shortened", "closing_you", "commonness"),
        *("playful", "colloquial", "curt"),
        *("most_curt", "most_warm", "ends_curt", "ends_warm"),
    ),
}
"""The cues of a scale where they are more than the measure itself. Bare denials, short sentences
and full forms ("it is") would read the written answers a little better, but a small model says such
things in earnest, and a reader takes it for no tone at all."""
WITH_LEXICONS = frozenset({"sentiment"})
"""Scales that have a lexicon of each set of written answers as well."""
DRESSED_WEIGHT, FURTHER_WEIGHT = 0.3, 0.4
"""In a fit, of a neutral text between remarks and of an answer of any set but the first, where an
answer of the first set counts 1."""


@dataclass(frozen=True)
class Cue:
    """One cue's part in a scale."""

    mean: float
    spread: float
    """Over the texts that the scale was fitted on."""
    low: float
    high: float
    """Added, for each spread above the mean, to the log-odds of an end against neither."""


@dataclass(frozen=True)
class Scale:
    """What it takes to tell the ends of a scale, and neither, apart."""

    cues: Mapping[str, Cue]
    low: float
    high: float
    """Log-odds of the ends, against neither, at the mean of every cue."""
    lexicons: Mapping[str, Lexicon] = field(default_factory=dict)
    """By the set of written answers that each was learned from."""

    def log_odds(self, text: str) -> tuple[float, float]:
        """Of the low and of the high end, each against neither."""
        found = _read(tuple(self.cues), settled(text), self.lexicons)
        low, high = self.low, self.high
        for (_, cue), value in zip(self.cues.items(), found, strict=True):
            off = (value - cue.mean) / cue.spread
            low, high = low + cue.low * off, high + cue.high * off
        return low, high

    def lean(self, text: str) -> float:
        """Above 0 where the text is nearer to the high end: log-odds of high against low."""
        low, high = self.log_odds(text) if _says_something(text) else (0.0, 0.0)
        return high - low

    def shows(self, text: str) -> int:
        """``LOW``, ``HIGH`` or, as of an empty text, ``NEITHER``: whichever is likeliest."""
        low, high = self.log_odds(text) if _says_something(text) else (-1.0, -1.0)
        return NEITHER if max(low, high) <= 0 else HIGH if high > low else LOW


def _read(names: Sequence[str], text: str, lexicons: Mapping[str, Lexicon]) -> list[float]:
    lexical = {
        name: value
        for source, lexicon in lexicons.items()
        for name, value in zip(_lexical([source]), lexicon.cues(text), strict=True)
    }
    return [lexical[name] if name in lexical else CUES[name](text) for name in names]


def _lexical(sources: Iterable[str]) -> list[str]:
    return [f"{source}_{name}" for source in sources for name in LEXICAL]


def _says_something(text: str) -> bool:
    return len(words(text)) >= FEWEST_WORDS


def load_scales(file: Path = BUILT_IN) -> dict[str, Scale]:
    """Read what ``save_scales`` wrote, by the names of their measures.

    Raises:
        PackError: names the file and what is wrong with it.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))["scales"]
        return {name: _scale(row) for name, row in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PackError(
            f"{file}: not a file of scales ({type(error).__name__}: {error}): "
            "run python -m mpd_core evaluate calibrate."
        ) from error


def _scale(row: Mapping[str, Any]) -> Scale:
    cues = {name: Cue(**numbers) for name, numbers in row["cues"].items()}
    lexicons = {name: Lexicon(**weights) for name, weights in row["lexicons"].items()}
    if unknown := set(cues) - {*CUES, *_lexical(lexicons)}:
        raise ValueError(f"unknown cue '{min(unknown)}'")
    numbers = [row["low"], row["high"], *(v for cue in cues.values() for v in asdict(cue).values())]
    parts = [part for lexicon in row["lexicons"].values() for part in lexicon.values()]
    numbers += [weight for part in parts for weight in part.values()]
    if not np.isfinite(numbers).all() or not all(cue.spread > 0 for cue in cues.values()):
        raise ValueError("numbers must be finite and spreads above 0")
    return Scale(cues, row["low"], row["high"], lexicons)


def save_scales(file: Path, scales: Mapping[str, Scale], facts: Mapping[str, Any]) -> None:
    """Write scales with what they were made from."""
    content = {**facts, "scales": {name: asdict(scale) for name, scale in scales.items()}}
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def fit(measure: str, answers: Mapping[str, Labelled]) -> Scale:
    """A scale from texts that show its low end, its high end or neither.

    Multinomial logistic regression with ``neither`` as reference and a ridge penalty, by Newton's
    method on standardised cues. A scale of ``WITH_LEXICONS`` first counts a lexicon in each set,
    and is fitted on the neutral texts of the first set between remarks as well.

    Args:
        measure: a name of ``EXTENDED``, or of one cue.
        answers: by the name of a set, the pack's own first, its texts, each with ``LOW``,
            ``NEITHER`` or ``HIGH``.

    Raises:
        KeyError: no such cue.
    """
    sets = {name: [(settled(text), label) for text, label in own] for name, own in answers.items()}
    more: list[tuple[str, int]] = []
    names, lexicons = list(EXTENDED.get(measure, (measure,))), {}
    if measure in WITH_LEXICONS:
        neutral = [text for text, label in next(iter(answers.values())) if label == NEITHER]
        more = [(settled(text), label) for text, label in dressed(neutral)]
        lexicons = {n: learn(own, [] if k else more) for k, (n, own) in enumerate(sets.items())}
        names += _lexical(lexicons)
    every = [*itertools.chain(*sets.values()), *more]
    each = [1.0, *[FURTHER_WEIGHT] * (len(sets) - 1), DRESSED_WEIGHT]
    counts = np.repeat(each, [*map(len, sets.values()), len(more)])
    found = np.array([_read(names, text, lexicons) for text, _ in every])
    return _logistic(names, found, [label for _, label in every], counts, lexicons)


def _logistic(
    names: Sequence[str],
    found: Floats,
    labels: Sequence[int],
    counts: Floats,
    lexicons: Mapping[str, Lexicon],
) -> Scale:
    """The scale of cues [N, C], with labels and weights of the N texts."""
    means = np.average(found, 0, counts)
    spreads = np.maximum(np.average((found - means) ** 2, 0, counts) ** 0.5, 10.0**-DIGITS)
    rows = np.c_[(found - means) / spreads, np.ones(len(found))]
    ends = np.array([[label == LOW, label == HIGH] for label in labels], float)
    weights = _newton(rows, ends, counts)
    columns = zip(names, means.tolist(), spreads.tolist(), strict=True)
    cues = {
        name: Cue(*(round(float(number), DIGITS) for number in (mean, spread, *weights[:, k])))
        for k, (name, mean, spread) in enumerate(columns)
    }
    low, high = (round(float(number), DIGITS) for number in weights[:, -1])
    return Scale(cues, low, high, lexicons)


def _newton(rows: Floats, ends: Floats, counts: Floats) -> Floats:
    """Coefficients [2, C] of low and high against neither; the last column is not penalised."""
    size = rows.shape[1]
    ridge = RIDGE * np.diag([1.0] * (size - 1) + [0.0])
    weights = np.zeros((2, size))
    for _ in range(NEWTON_STEPS):
        odds = np.exp(np.clip(rows @ weights.T, -50, 50))
        shares = odds / (1 + odds.sum(1, keepdims=True))
        slope = ((shares - ends) * counts[:, None]).T @ rows + weights @ ridge
        blocks = [
            [
                rows.T @ (rows * (counts * shares[:, i] * ((i == j) - shares[:, j]))[:, None])
                + (i == j) * ridge
                for j in (0, 1)
            ]
            for i in (0, 1)
        ]
        step = np.linalg.solve(np.block(blocks), slope.ravel()).reshape(2, size)
        weights = weights - step
        if np.abs(step).max() < 1e-9:
            break
    return weights
