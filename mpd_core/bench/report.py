"""What a run prints: a table for people, then one line of JSON for programs. No torch here."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mpd_core.bench.options import Target
from mpd_core.bench.values import Figure, Section
from mpd_core.charts import page
from mpd_core.console import aligned

NOISY = 1.3
"""Largest over smallest of repeated times, above which a figure deserves no trust."""

Table = Sequence[Sequence[str]]


def tables(
    facts: Mapping[str, Any],
    sections: Mapping[str, Section],
    targets: Mapping[str, Target],
    checks: Sequence[Mapping[str, Any]],
) -> str:
    """The readable part: the machine, the figures beside their targets, and the checks."""
    known = [f"{key} {value}" for key, value in facts.items() if value is not None]
    figures = [f for section in sections.values() for f in section.figures]
    rows = [("figure", "value", "target", "", "what it is"), *(_row(f, targets) for f in figures)]
    times = [("time", "median", "min", "max", ""), *_times(sections)]
    parts = [", ".join(known), aligned(rows), aligned(times), aligned(_heard(checks))]
    parts += [aligned(_profile(sections)), *_words(sections), *_growth(sections)]
    return "\n\n".join(part for part in parts if part)


def summary(
    facts: Mapping[str, Any],
    options: Mapping[str, Any],
    sections: Mapping[str, Section],
    targets: Mapping[str, Target],
    checks: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Everything that was found, for the JSON line."""
    figures = {f.name: f.value for section in sections.values() for f in section.figures}
    return {
        "bench": "mpd",
        "machine": dict(facts),
        "options": dict(options),
        "figures": figures,
        "targets": {
            name: {"target": str(target), "met": target.met(value)}
            for name, target in targets.items()
            if (value := figures.get(name)) is not None
        },
        "checks": list(checks),
        "data": {name: section.data for name, section in sections.items()},
    }


def one_line(value: Any) -> str:
    """JSON without line breaks; numbers that are none become null."""
    return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False)


def save_growth(folder: Path, facts: Mapping[str, Any], lines: Mapping[str, Any]) -> Path:
    """Write ``growth.json`` and the page ``growth.html``; the path of the page."""
    folder.mkdir(parents=True, exist_ok=True)
    data = json.dumps({"machine": dict(facts), "lines": lines}, indent=1)
    (folder / "growth.json").write_text(data + "\n", encoding="utf-8")
    note = ", ".join(f"{key} {value}" for key, value in facts.items() if value is not None)
    path = folder / "growth.html"
    curves = {
        f"{heading}: {name} [{unit}]": [(p["x"], p[key]) for p in points]
        for name, points in lines.items()
        for key, heading, unit in (
            ("ms_per_step", "Time of a step", "ms"),
            ("tokens_per_s", "Throughput", "tokens/s"),
        )
    }
    path.write_text(page("How a step grows", note, curves, log_x=True), encoding="utf-8")
    return path


def short(figure: Figure) -> str:
    """A figure as soon as it is known, for who waits."""
    return f"{figure.name} {'-' if figure.value is None else format(figure.value, '.3g')}"


def _row(figure: Figure, targets: Mapping[str, Target]) -> tuple[str, ...]:
    target, value = targets.get(figure.name), figure.value
    if value is None:
        return (figure.name, "-", str(target or ""), "", f"{figure.meaning}: {figure.note}")
    verdict = "" if target is None else ("met" if target.met(value) else "MISSED")
    text = f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return (figure.name, text, str(target or ""), verdict, figure.meaning)


def _times(sections: Mapping[str, Section]) -> list[tuple[str, ...]]:
    return [
        (
            f"{measure} {name} [{unit}]",
            *(f"{spread[key]:.4g}" for key in ("median", "min", "max")),
            "noisy: was the machine quiet?" if spread["max"] > NOISY * spread["min"] else "",
        )
        for measure, section in sections.items()
        for kind, unit in (("ms_per_token", "ms/token"), ("seconds", "s"))
        for name, spread in section.data.get(kind, {}).items()
    ]


def _heard(checks: Sequence[Mapping[str, Any]]) -> Table:
    heading = ("checked", "max |ln p - ln p'|", "tolerance", "same choice", "experts apart")
    return [
        heading,
        *(
            (
                check["peer"],
                f"{check['max_log_prob_difference']:.1e}",
                f"{check['tolerance']:g}",
                check["same_choice"],
                f"{check['disagreement']:.2g} nats",
            )
            for check in checks
        ),
    ]


def _profile(sections: Mapping[str, Section]) -> Table:
    """Where the time of a step goes: why a floor is missed."""
    shares = sections["floor"].data["profile"] if "floor" in sections else {}
    rows = [(name, f"{100 * share:.0f}%") for name, share in shares.items()]
    return [("one request, MPD: operator", "of the time"), *rows]


def _words(sections: Mapping[str, Section]) -> list[str]:
    """Which regime the crowds of ``serve32`` run in."""
    regimes = sections["serve32"].data["regime"] if "serve32" in sections else {}
    names = {"mpd": "MPD", "c": "stacked soups"}
    sentences = []
    for key, r in regimes.items():
        step = f"{r['step_ms']:.0f} ms" if r["step_ms"] else "not measured: the rows do not fit"
        sentences.append(
            f"serve32, {names[key]}: {r['rows']} rows a step, bound by {r['bound_by']} "
            f"(floor {r['floor_ms']:.0f} ms, step {step})."
        )
    return ["\n".join(sentences)] if sentences else []


def _growth(sections: Mapping[str, Section]) -> Iterator[str]:
    """A table a line of ``growth``."""
    lines = sections["growth"].data["lines"] if "growth" in sections else {}
    for name, points in lines.items():
        rows = [(name, "ms a step", "tokens/s")]
        rows += [
            (f"{p['x']:g}", f"{p['ms_per_step']:.4g}", f"{p['tokens_per_s']:.4g}") for p in points
        ]
        yield aligned(rows)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
