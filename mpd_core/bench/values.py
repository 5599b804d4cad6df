"""Plain values that pass between the bench and the processes of its competitors. No torch here."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from mpd_core.errors import MPDError
from mpd_core.packs import Precision

PROMPTS = (
    "Explain photosynthesis.",
    "Why is the sky blue?",
    "How does a vaccine work?",
    "What happened in the French Revolution?",
    "How do I get better at chess?",
    "What is a black hole?",
    "Give me tips for a job interview.",
    "How does the internet find a web page?",
)


class BenchError(MPDError):
    """A peer that computes something else than the engine, or a process that died."""


@dataclass(frozen=True)
class Spec:
    """What a competitor loads: a folder of the bench's packs, and the pack that they come from."""

    scratch: Path
    source: str | None
    precision: Precision
    device: str


@dataclass(frozen=True)
class Timing:
    """Replies of one timed run, of each request its tokens (ids, or texts) and when each came.

    Times are seconds from the start of the run, whose clock stood still for those ``uncounted``.
    """

    tokens: list[list[Any]]
    stamps: list[list[float]]
    uncounted: float = 0.0

    @property
    def seconds(self) -> float:
        """From the start, prefill included, to the last token of all."""
        return max(times[-1] for times in self.stamps)

    @property
    def ms_per_token(self) -> float:
        """Decoding only: milliseconds between the tokens of the first request, averaged."""
        return 1000 * (self.stamps[0][-1] - self.stamps[0][0]) / (len(self.stamps[0]) - 1)

    @property
    def together_ms(self) -> float | None:
        """Median milliseconds a step while all requests decode; None where they never all do."""
        start, end = max(s[0] for s in self.stamps), min(s[-1] for s in self.stamps)
        gaps = [b - a for a, b in pairwise(t for t in self.stamps[0] if start <= t <= end)]
        return 1000 * statistics.median(gaps) if gaps else None


class Figure(NamedTuple):
    """One line of the table; a value of None was not measured, and the meaning says why."""

    name: str
    value: float | None
    meaning: str


StepLogProbs = list[tuple[int, dict[int, float]]]
"""Of each step of a reply: the token, and log-probabilities of some candidates, as in a trace."""
Found = tuple[list[Figure], dict[str, Any]]
"""A measure's result: figures, and the times, bytes and so on behind them for the JSON line."""


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and range of repeated measurements."""
    low, high = min(values), max(values)
    return {"median": statistics.median(values), "min": low, "max": high, "n": len(values)}


def ratios(
    rows: Mapping[str, tuple[str, str, str]], times: Mapping[str, Mapping[str, float]]
) -> list[Figure]:
    """Figures that are ratios of two medians: name to (over, under, what it is)."""
    return [
        Figure(name, times[over]["median"] / times[under]["median"], meaning)
        for name, (over, under, meaning) in rows.items()
    ]
