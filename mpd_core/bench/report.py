"""What a run prints: tables for people, then one line of JSON for programs. No torch here."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mpd_core.bench.options import Target
from mpd_core.bench.values import Figure
from mpd_core.console import aligned

UNITS = {"ms_per_token": "ms/token", "first_ms": "ms to the first token", "seconds": "s"}
"""Of the times that measures give by name."""
NOISY = 1.3
"""Largest over smallest of repeated times, above which a figure deserves no trust."""


def tables(
    found: Mapping[str, Any], figures: Sequence[Figure], targets: Mapping[str, Target]
) -> str:
    """The readable part: the machine, the figures beside their targets, and the checks."""
    data = found["data"]
    shown: list[list[tuple[str, ...]]] = [
        [("figure", "value", "target", "", "what it is"), *(_row(f, targets) for f in figures)],
        [("time", "median", "min", "max", ""), *_times(data)],
        [("checked", "max |ln p - ln p'|", "tolerance", "same choice"), *_checks(found["checks"])],
        [("serve32, all decode", "rows", "bound by", "floor, ms", "step, ms"), *_regimes(data)],
    ]
    for name, points in data.get("growth", {}).get("lines", {}).items():
        values = ((p["x"], p["ms_per_step"], p["tokens_per_s"]) for p in points)
        rows = (tuple(f"{value:.4g}" for value in three) for three in values)
        shown.append([(name, "ms a step", "tokens/s"), *rows])
    machine = ", ".join(f"{k} {v}" for k, v in found["machine"].items() if v is not None)
    parts = [machine, *(aligned(rows) for rows in shown)]
    return "\n\n".join(part for part in parts if part)


def one_line(value: Any) -> str:
    """JSON without line breaks; numbers that are none become null."""
    return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, default=str)


def digits(value: float | None) -> str:
    """Three of a figure's, and all before its point."""
    if value is None:
        return "-"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _row(figure: Figure, targets: Mapping[str, Target]) -> tuple[str, ...]:
    target, value, verdict = targets.get(figure.name), figure.value, ""
    if target and value is not None:
        verdict = "met" if target.met(value) else "MISSED"
    return (figure.name, digits(value), str(target or ""), verdict, figure.meaning)


def _times(data: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for measure, section in data.items():
        for kind, unit in UNITS.items():
            for name, found in section.get(kind, {}).items():
                noisy = found["max"] > NOISY * found["min"]
                times = (f"{found[key]:.4g}" for key in ("median", "min", "max"))
                remark = "noisy: was the machine quiet?" if noisy else ""
                yield (f"{measure} {name} [{unit}]", *times, remark)


def _checks(checks: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    for c in checks:
        difference, tolerance = f"{c['max_log_prob_difference']:.1e}", f"{c['tolerance']:g}"
        yield c["peer"], difference, tolerance, c["same_choice"]


def _regimes(data: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Which regime the crowds of ``serve32`` run in."""
    names = {"mpd": "MPD", "c": "stacked soups"}
    for key, r in data.get("serve32", {}).get("regime", {}).items():
        step = f"{r['step_ms']:.0f}" if r["step_ms"] else "the rows do not fit"
        yield (names[key], str(r["rows"]), r["bound_by"], f"{r['floor_ms']:.0f}", step)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
