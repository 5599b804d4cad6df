"""Scales between two ends, each a small logistic model over a text's cues, and how they are fitted.

A scale is named after the plain measure that it grew from (``grade``, ``words``, ``sentiment``: the
names that a recipe's ``[measures]`` uses) and tells three things apart, as a reader would: the text
shows the low end, the high end, or neither. Its coefficients were fitted on the written answers'
surface measures; there is no neural model in it, and none was trained on it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
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
        *("playful", "colloquial", "curt", *LEXICAL),
        *("most_curt", "most_warm", "ends_curt", "ends_warm"),
    ),
}
"""The cues of a scale where they are more than the measure itself. Bare denials, short sentences
and full forms ("it is") would read the written answers a little better, but a small model says such
things in earnest, and a reader takes it for no tone at all."""
DRESSED_WEIGHT = 0.3
"""Of a neutral text between remarks, in a scale with a lexicon, against a written answer."""
HANDICAP: Mapping[str, tuple[float, float]] = {"grade": (0.0, 1.0), "sentiment": (0.5, 0.5)}
"""Added to the log-odds of the low and of the high end against neither, chosen on validation
answers. A written answer shows its tone in every sentence and neutral ones are an encyclopedia's
prose; in the plain words of a small model a remark, or a few terms, are enough."""


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
    lexicon: Lexicon | None = None
    """Of a scale with lexical cues."""

    def log_odds(self, text: str) -> tuple[float, float]:
        """Of the low and of the high end, each against neither."""
        found = _read(tuple(self.cues), settled(text), self.lexicon)
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


def _read(names: Sequence[str], text: str, lexicon: Lexicon | None) -> list[float]:
    lexical = lexicon.cues(text) if lexicon else {}
    return [lexical[name] if name in lexical else CUES[name](text) for name in names]


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
    lexicon = Lexicon(**row["lexicon"]) if row.get("lexicon") else None
    if unknown := set(cues) - {*CUES, *(LEXICAL if lexicon else ())}:
        raise ValueError(f"unknown cue '{min(unknown)}'")
    numbers = [row["low"], row["high"], *(v for cue in cues.values() for v in asdict(cue).values())]
    numbers += [w for weights in (row.get("lexicon") or {}).values() for w in weights.values()]
    if not np.isfinite(numbers).all() or not all(cue.spread > 0 for cue in cues.values()):
        raise ValueError("numbers must be finite and spreads above 0")
    return Scale(cues, row["low"], row["high"], lexicon)


def save_scales(file: Path, scales: Mapping[str, Scale], facts: Mapping[str, Any]) -> None:
    """Write scales with what they were made from."""
    content = {**facts, "scales": {name: asdict(scale) for name, scale in scales.items()}}
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def fit(measure: str, texts: Sequence[str], labels: Sequence[int]) -> Scale:
    """A scale from texts that show its low end, its high end or neither.

    Multinomial logistic regression with ``neither`` as reference and a ridge penalty, by Newton's
    method on standardised cues. A scale with lexical cues first counts its lexicon, and is fitted
    on the neutral texts between remarks as well.

    Args:
        measure: a name of ``EXTENDED``, or of one cue.
        texts: N texts.
        labels: N of ``LOW``, ``NEITHER``, ``HIGH``.

    Raises:
        KeyError: no such cue.
    """
    names = EXTENDED.get(measure, (measure,))
    plain = [(settled(text), label) for text, label in zip(texts, labels, strict=True)]
    lexicon, more = None, []
    if set(LEXICAL) & set(names):
        neutral = [text for text, label in zip(texts, labels, strict=True) if label == NEITHER]
        more = [(settled(text), label) for text, label in dressed(neutral)]
        lexicon = learn(plain, more)
    found = np.array([_read(names, text, lexicon) for text, _ in (*plain, *more)])
    means, spreads = found[: len(plain)].mean(0), found[: len(plain)].std(0) + 1e-6
    rows = np.c_[(found - means) / spreads, np.ones(len(found))]
    ends = np.array([[label == LOW, label == HIGH] for _, label in (*plain, *more)], float)
    counts = np.r_[np.ones(len(plain)), np.full(len(more), DRESSED_WEIGHT)]
    weights = _newton(rows, ends, counts)
    columns = zip(names, means.tolist(), spreads.tolist(), strict=True)
    cues = {
        name: Cue(*(round(float(number), DIGITS) for number in (mean, spread, *weights[:, k])))
        for k, (name, mean, spread) in enumerate(columns)
    }
    low, high = weights[:, -1] + HANDICAP.get(measure, (0.0, 0.0))
    return Scale(cues, round(float(low), DIGITS), round(float(high), DIGITS), lexicon)


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
