"""Aggregate traces into tables of numbers."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from mpd_core.analysis.words import KINDS, kinds
from mpd_core.trace import StepRecord, Trace

BINS = 32
MOST_APART = 20
CONTEXT = 60
"""Characters of the reply before a token, to show where it stands."""
_TIE = 1e-4
"""Weights nearer than this have no leader."""


@dataclass
class StepGroup:
    """Statistics of a group of tokens."""

    name: str
    tokens: int = 0
    entropy: float = 0.0
    """Mean of the merged distributions, in nats."""
    divergence: float = 0.0
    """Mean of the experts', each counted alike, in nats."""
    weights: dict[str, float] = field(default_factory=dict)
    """Mean weight by expert, over the tokens of replies that have it."""
    shares: dict[str, int] = field(default_factory=dict)
    """Tokens behind each mean weight."""

    def add(self, step: StepRecord) -> None:
        """Add a token to the means."""
        self.tokens += 1
        self.entropy += (step.entropy - self.entropy) / self.tokens
        self.divergence += (step.divergence - self.divergence) / self.tokens
        for expert, weight in step.weights.items():
            count = self.shares[expert] = self.shares.get(expert, 0) + 1
            mean = self.weights.get(expert, 0.0)
            self.weights[expert] = mean + (weight - mean) / count


@dataclass
class PreferenceGroup(StepGroup):
    """All replies under one preference."""

    traces: int = 0
    switches: int = 0
    """How often the leading expert changes."""

    @property
    def switches_per_100(self) -> float:
        return 100.0 * self.switches / self.tokens if self.tokens else 0.0


@dataclass(frozen=True)
class Place:
    """A token at which experts disagree strongly."""

    trace: str
    index: int
    before: str
    text: str
    divergence: float
    favourites: Mapping[str, str]
    """What each expert alone finds likeliest, where candidates were recorded."""


@dataclass(frozen=True)
class Analysis:
    """Statistics over many traces."""

    traces: int
    tokens: int
    experts: tuple[str, ...]
    positions: tuple[StepGroup, ...]
    kinds: tuple[StepGroup, ...]
    preferences: tuple[PreferenceGroup, ...]
    apart: tuple[Place, ...]

    @property
    def switches_per_100(self) -> float:
        """Of all replies together."""
        switches = sum(row.switches for row in self.preferences)
        return 100.0 * switches / self.tokens if self.tokens else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as the page and the report draw them."""
        found = asdict(self) | {"switches_per_100": self.switches_per_100}
        for plain, row in zip(found["preferences"], self.preferences, strict=True):
            plain["switches_per_100"] = row.switches_per_100
        return found

    def to_csv(self) -> str:
        """One number a row. Names are JSON strings, so that no spreadsheet computes with them."""
        file = io.StringIO()
        out = csv.writer(file, lineterminator="\r\n")
        out.writerow(["group", "name_json", "quantity", "expert_json", "value", "tokens"])
        groups = {"position": self.positions, "kind": self.kinds, "preference": self.preferences}
        for group, rows in groups.items():
            for row in rows:
                name = _quoted(row.name)
                for quantity in ("entropy", "divergence"):
                    out.writerow([group, name, quantity, "", getattr(row, quantity), row.tokens])
                for expert, weight in row.weights.items():
                    count = row.shares[expert]
                    out.writerow([group, name, "weight", _quoted(expert), weight, count])
        for row in self.preferences:
            value = row.switches_per_100
            out.writerow(
                ["preference", _quoted(row.name), "switches_per_100", "", value, row.tokens]
            )
        return file.getvalue()


def analyse(traces: Mapping[str, Trace]) -> Analysis:
    """Aggregate traces, which come by what they are called, e.g. the file."""
    steps = [
        (name, i, step) for name, trace in traces.items() for i, step in enumerate(trace.steps)
    ]
    experts = dict.fromkeys(expert for _, _, step in steps for expert in step.weights)
    width = max(1, math.ceil(max((s.index + 1 for _, _, s in steps), default=1) / BINS))
    by_place: dict[int, StepGroup] = {}
    for _, _, step in steps:
        place = step.index // width
        first = place * width + 1
        name = str(first) if width == 1 else f"{first}–{first + width - 1}"
        by_place.setdefault(place, StepGroup(name)).add(step)
    by_kind = {kind: StepGroup(kind) for kind in KINDS}
    by_code: dict[str, PreferenceGroup] = {}
    for trace in traces.values():
        name = trace.preference or "none"
        row = by_code.setdefault(name, PreferenceGroup(name))
        row.traces += 1
        row.switches += switches(trace.steps)
        for step, kind in zip(trace.steps, kinds([s.text for s in trace.steps]), strict=True):
            row.add(step)
            by_kind[kind].add(step)
    return Analysis(
        traces=len(traces),
        tokens=len(steps),
        experts=tuple(experts),
        positions=tuple(by_place[place] for place in sorted(by_place)),
        kinds=tuple(row for row in by_kind.values() if row.tokens),
        preferences=tuple(by_code[name] for name in sorted(by_code)),
        apart=_apart(traces, steps),
    )


def switches(steps: Sequence[StepRecord]) -> int:
    """How often the expert with the largest weight changes; ties have no leader."""
    leaders: list[str | None] = []
    for weights in (step.weights for step in steps):
        ordered = sorted(weights, key=lambda expert: -weights[expert])
        tied = len(ordered) > 1 and weights[ordered[0]] - weights[ordered[1]] <= _TIE
        leaders.append(None if tied or not ordered else ordered[0])
    return sum(1 for one, other in itertools.pairwise(leaders) if one != other)


def _apart(
    traces: Mapping[str, Trace], steps: Sequence[tuple[str, int, StepRecord]]
) -> tuple[Place, ...]:
    furthest = sorted(steps, key=lambda found: -found[2].divergence)[:MOST_APART]
    found = []
    for name, i, step in (one for one in furthest if one[2].divergence > 0.0):
        before = "".join(other.text for other in traces[name].steps[max(0, i - CONTEXT) : i])
        favourites = {
            expert: max(step.top_k, key=lambda one: one.logprobs.get(expert, -math.inf)).text
            for expert in (step.weights if step.top_k else ())
        }
        said = before[-CONTEXT:], step.text, step.divergence, favourites
        found.append(Place(name, step.index, *said))
    return tuple(found)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
