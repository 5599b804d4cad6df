"""Plain values that pass between the bench and the processes of its competitors. No torch here."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mpd_core.packs import Precision


@dataclass(frozen=True)
class Spec:
    """What a competitor's process loads."""

    kind: str
    folder: Path
    """Of the bench's own pack."""
    precision: Precision
    device: str
    half_weights: bool = False
    """Round dense weights to fp16 first: fp32 arithmetic on the weights of a packed engine."""


@dataclass(frozen=True)
class Ask:
    """One request, to be answered greedily with a fixed number of tokens."""

    prompt: str
    preference: str
    method: str = "mpd"


@dataclass(frozen=True)
class Run:
    """Replies of one timed run."""

    tokens: tuple[tuple[int, ...], ...]
    """Of each request."""
    stamps: tuple[tuple[float, ...], ...]
    """Seconds from the start of the run to each token of each request."""

    @property
    def seconds(self) -> float:
        """From the start, prefill included, to the last token of all."""
        return max(times[-1] for times in self.stamps)

    @property
    def ms_per_token(self) -> float:
        """Decoding only: milliseconds between the tokens of the first request, averaged."""
        first, *_, last = self.stamps[0]
        return 1000 * (last - first) / (len(self.stamps[0]) - 1)

    @property
    def first_ms(self) -> list[float]:
        """Milliseconds to the first token of each request."""
        return [1000 * times[0] for times in self.stamps]

    @property
    def gaps_ms(self) -> list[float]:
        """Milliseconds between neighbouring tokens, of all requests."""
        return [
            1000 * (later - earlier)
            for times in self.stamps
            for earlier, later in itertools.pairwise(times)
        ]

    @property
    def together_ms(self) -> float | None:
        """Median milliseconds a step while all requests decode; None where they never all do."""
        start = max(times[0] for times in self.stamps)
        end = min(times[-1] for times in self.stamps)
        times = [t for t in self.stamps[0] if start <= t <= end]
        gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
        return 1000 * statistics.median(gaps) if gaps else None


@dataclass(frozen=True)
class Said:
    """What the engine said at each step of one reply, as far as a trace records it."""

    tokens: tuple[int, ...]
    candidates: tuple[tuple[int, ...], ...]
    """Ids that were recorded at each step: the top of the mixture and of each expert."""
    log_probs: tuple[tuple[float, ...], ...]
    """The mixture's, of those ids."""
    entropies: tuple[float, ...]
    """Of the mixture, nats: a function of the whole distribution."""
    disagreement: float
    """Of the experts, nats, averaged over the steps."""


@dataclass(frozen=True)
class Replayed:
    """What a peer says at the same steps, fed with the engine's tokens."""

    best: tuple[int, ...]
    log_probs: tuple[tuple[float, ...], ...]
    entropies: tuple[float, ...]


@dataclass(frozen=True)
class Spread:
    """Median and range of repeated measurements."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values), len(values))

    def to_dict(self) -> dict[str, float]:
        return {"median": self.median, "min": self.low, "max": self.high, "n": self.count}


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    name: str
    value: float | None
    """None: not measured, and the note says why."""
    meaning: str
    note: str = ""


@dataclass(frozen=True)
class Section:
    """What one measure found."""

    figures: tuple[Figure, ...]
    data: dict[str, Any] = field(default_factory=dict)
    """For the JSON line: milliseconds, bytes and so on behind the figures."""
