"""Plain values that pass between the bench and the processes of its competitors. No torch here."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


@dataclass(frozen=True)
class Spec:
    """What a competitor's process loads: the bench's own pack, from its folder.

    With ``half_weights`` dense weights are rounded to fp16 first: fp32 arithmetic on the weights of
    a packed engine. ``gguf`` is the file that the base was converted from, where there is one.
    """

    kind: str
    folder: Path
    precision: Precision
    device: str
    half_weights: bool = False
    gguf: Path | None = None


@dataclass(frozen=True)
class Query:
    """One request, to be answered greedily with a fixed number of tokens."""

    prompt: str
    preference: str
    method: str = "mpd"


@dataclass(frozen=True)
class Timing:
    """Replies of one timed run: of each request its tokens, and when each came.

    Times are seconds from the start of the run, whose clock stood still for those ``uncounted``.
    """

    tokens: tuple[tuple[int, ...], ...]
    stamps: tuple[tuple[float, ...], ...]
    uncounted: float = 0.0

    @classmethod
    def joined(cls, runs: Iterable[Timing], uncounted: float = 0.0) -> Timing:
        """Runs, one after the other by the same clock, as one."""
        replies = [pair for run in runs for pair in zip(run.tokens, run.stamps, strict=True)]
        return cls(tuple(t for t, _ in replies), tuple(s for _, s in replies), uncounted)

    @property
    def seconds(self) -> float:
        """From the start, prefill included, to the last token of all."""
        return max(times[-1] for times in self.stamps)

    @property
    def ms_per_token(self) -> float:
        """Decoding only: milliseconds between the tokens of the first request, averaged."""
        return 1000 * (self.stamps[0][-1] - self.stamps[0][0]) / (len(self.stamps[0]) - 1)

    @property
    def first_ms(self) -> list[float]:
        """Milliseconds to the first token of each request."""
        return [1000 * times[0] for times in self.stamps]

    @property
    def gaps_ms(self) -> list[float]:
        """Milliseconds between neighbouring tokens, of all requests."""
        return [1000 * (b - a) for times in self.stamps for a, b in itertools.pairwise(times)]

    @property
    def together_ms(self) -> float | None:
        """Median milliseconds a step while all requests decode; None where they never all do."""
        start = max(times[0] for times in self.stamps)
        end = min(times[-1] for times in self.stamps)
        times = [t for t in self.stamps[0] if start <= t <= end]
        gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
        return 1000 * statistics.median(gaps) if gaps else None


@dataclass(frozen=True)
class Figure:
    """One line of the table; a value of None was not measured, and the meaning says why."""

    name: str
    value: float | None
    meaning: str


StepLogProbs = tuple[tuple[int, dict[int, float]], ...]
"""Of each step of a reply the token, and log-probabilities of some candidates: of a trace's."""
Found = tuple[list[Figure], dict[str, Any]]
"""By a measure; with milliseconds, bytes and so on behind the figures, for the JSON line."""


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
