"""What a run of the bench is asked to do, and what passes between its processes. No torch here."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from mpd_core.errors import MPDError, RequestError
from mpd_core.fields import check_numbers, number
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
MEASURES = (
    *("tax", "vs_mod", "vs_peft", "vs_nocache", "vs_llama"),
    *("serve32", "memory", "floor", "shared", "growth"),
)
_EVERYWHERE = {"memory.weights": "<= 1.15", "floor.one": ">= 0.4"}
_SHARED = ("busy_one", "busy_sixteen", "one_core_one", "one_core_sixteen")
CPU_TARGETS = {
    **_EVERYWHERE,
    **{"tax.a": "<= 1.4", "tax.b": "<= 0.65", "vs_mod.loop": ">= 6", "serve32.a": "<= 0.2"},
    **{"vs_llama.one": "<= 1.15", "vs_llama.mpd": "<= 1.5"},
    **{"vs_llama.first_mpd": "<= 2.5", "vs_llama.soups": "<= 1"},
    **{f"shared.{name}": ">= 0.8" for name in _SHARED},
}
GPU_TARGETS = {**_EVERYWHERE, "tax.a": "<= 1.25", "serve32.a": "<= 0.1", "serve32.b": "<= 0.79"}
"""Bounds that the project set itself before measuring."""


@dataclass(frozen=True)
class BenchOptions:
    """Sizes and choices of one run."""

    only: tuple[str, ...] = MEASURES
    tokens: int = number(48, 2, 512, "New tokens a request; nothing stops earlier.")
    requests: int = number(32, 1, 64, "Simultaneous requests of serve32.")
    repeats: int = number(5, 1, 100, "Timed rounds, after one that is not; medians are reported.")
    largest: int = number(64, 1, 64, "Most requests of growth.")
    widest: int = number(12, 1, 26, "Most experts of growth.")
    pack: str | None = None
    precision: Precision | None = None
    device: str | None = None
    settle: int = 12
    """Seconds beside busy neighbours before anything is timed."""

    def __post_init__(self) -> None:
        unknown = set(self.only) - set(MEASURES)
        if unknown or not self.only:
            raise RequestError(
                f"Unknown measure '{', '.join(sorted(unknown))}': use {', '.join(MEASURES)}."
            )
        check_numbers(self)

    def quick(self) -> BenchOptions:
        """The same with sizes that show that everything runs, and not how fast."""
        return replace(self, tokens=6, requests=4, repeats=1, largest=4, widest=3, settle=0)


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
    def first_ms(self) -> float:
        """Milliseconds to the first request's first token."""
        return 1000 * self.stamps[0][0]

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


Spreads = dict[str, dict[str, float]]


def spreads(runs: Mapping[str, Sequence[Timing]], timed: str) -> Spreads:
    """Median and range over repeated runs of a property of ``Timing``, by contest."""
    values = {name: [getattr(run, timed) for run in some] for name, some in runs.items()}
    return {
        name: {"median": statistics.median(v), "min": min(v), "max": max(v), "n": len(v)}
        for name, v in values.items()
    }


def ratios(rows: Mapping[str, tuple[str, str, str]], times: Spreads) -> list[Figure]:
    """Figures that are ratios of two medians: name to (over, under, what it is)."""
    return [
        Figure(name, times[over]["median"] / times[under]["median"], meaning)
        for name, (over, under, meaning) in rows.items()
    ]
