"""What a run prints: a table for people, then one line of JSON for programs. No torch here."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mpd_core.bench.options import Target
from mpd_core.bench.values import Figure
from mpd_core.charts import page
from mpd_core.console import aligned

UNITS = {"ms_per_token": "ms/token", "first_ms": "ms to the first token", "seconds": "s"}
"""Of the times that measures give by name."""
NOISY = 1.3
"""Largest over smallest of repeated times, above which a figure deserves no trust."""


def tables(
    found: Mapping[str, Any], figures: Sequence[Figure], targets: Mapping[str, Target]
) -> str:
    """The readable part: the machine, the figures beside their targets, and the checks."""
    checks = [
        (
            check["peer"],
            f"{check['max_log_prob_difference']:.1e}",
            f"{check['tolerance']:g}",
            check["same_choice"],
            f"{check['disagreement']:.2g} nats",
        )
        for check in found["checks"]
    ]
    heading = ("checked", "max |ln p - ln p'|", "tolerance", "same choice", "experts apart")
    # Where the time of a step goes: why a floor is missed.
    shares = found["data"].get("floor", {}).get("profile", {})
    profile = [(name, f"{100 * share:.0f}%") for name, share in shares.items()]
    parts = [
        _machine(found["machine"]),
        aligned(
            [("figure", "value", "target", "", "what it is"), *(_row(f, targets) for f in figures)]
        ),
        aligned([("time", "median", "min", "max", ""), *_times(found["data"])]),
        aligned([heading, *checks]),
        aligned([("one request, MPD: operator", "of the time"), *profile]),
        "\n".join(_regimes(found["data"])),
        *_growth(found["data"]),
    ]
    return "\n\n".join(part for part in parts if part)


def one_line(value: Any) -> str:
    """JSON without line breaks; numbers that are none become null."""
    return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False)


def save_growth(folder: Path, facts: Mapping[str, Any], lines: Mapping[str, Any]) -> Path:
    """Write ``growth.json`` and the page ``growth.html``; the path of the page."""
    folder.mkdir(parents=True, exist_ok=True)
    data = json.dumps({"machine": dict(facts), "lines": lines}, indent=1)
    (folder / "growth.json").write_text(data + "\n", encoding="utf-8")
    units = (("Time of a step", "ms", "ms_per_step"), ("Throughput", "tokens/s", "tokens_per_s"))
    curves = {
        f"{heading}: {name} [{unit}]": [(p["x"], p[key]) for p in points]
        for name, points in lines.items()
        for heading, unit, key in units
    }
    path = folder / "growth.html"
    path.write_text(page("How a step grows", _machine(facts), curves, log_x=True), encoding="utf-8")
    return path


def digits(value: float | None) -> str:
    """Three of a figure's, and all before its point."""
    if value is None:
        return "-"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _machine(facts: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in facts.items() if value is not None)


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
                yield (
                    f"{measure} {name} [{unit}]",
                    *(f"{found[key]:.4g}" for key in ("median", "min", "max")),
                    "noisy: was the machine quiet?" if noisy else "",
                )


def _regimes(data: Mapping[str, Any]) -> Iterator[str]:
    """Which regime the crowds of ``serve32`` run in."""
    names = {"mpd": "MPD", "c": "stacked soups"}
    for key, r in data.get("serve32", {}).get("regime", {}).items():
        step = f"{r['step_ms']:.0f} ms" if r["step_ms"] else "not measured: the rows do not fit"
        yield (
            f"serve32, {names[key]}: {r['rows']} rows a step, bound by {r['bound_by']} "
            f"(floor {r['floor_ms']:.0f} ms, step {step})."
        )


def _growth(data: Mapping[str, Any]) -> Iterator[str]:
    """A table a line of ``growth``."""
    for name, points in data.get("growth", {}).get("lines", {}).items():
        rows = [
            (f"{p['x']:g}", f"{p['ms_per_step']:.4g}", f"{p['tokens_per_s']:.4g}") for p in points
        ]
        yield aligned([(name, "ms a step", "tokens/s"), *rows])


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
