"""The paper's efficiency (section 4.5, A.3) beside ours, from what the bench has printed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mpd_core.errors import MPDError
from mpd_core.rendering import Table, line_chart, number, percent, rendered

PAPER = (13.25, 10.48)
"""Seconds a request of the paper's soups and of its MPD, on one A6000."""
JSON, MARKDOWN, HTML = "efficiency.json", "efficiency.md", "efficiency.html"
WAYS = {
    "a": "soups one by one, transformers, as in the paper",
    "b": "soups grouped by preference, this engine",
    "c": "soups as stacked adapters, one batch, this engine",
}
MODEL = (
    "The paper's model (A.3) takes the time of a batch as independent of its size: then b requests "
    "with their experts cost what one costs, soups of different preferences, which cannot share a "
    "batch, b times that, and outputs over parameters is 1/b on one machine that holds every "
    "expert; N/b where each of 2N machines holds one expert or one soup of N dimensions."
)
KINDS = ("measured", "paper's model of a batch", "one by one")


def efficiency(bench: Path) -> dict[str, Any]:
    """Figures from a file that holds the bench's line of JSON, alone or after its tables.

    Raises:
        MPDError: there is no such line, or it lacks both ``serve32`` and ``growth``.
    """
    try:
        rows = [line for line in bench.read_text(encoding="utf-8").splitlines() if line[:1] == "{"]
        found = json.loads(rows[-1])
        data = dict(found["data"].items())
        parts = {"machine": found["machine"], **_crowd(data), **_growth(data)}
    except (OSError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise MPDError(
            f"{bench}: holds no result of the bench ({type(error).__name__}): write one with "
            "python -m mpd_core bench --only serve32,growth > FILE."
        ) from error
    if len(parts) == 1:
        raise MPDError(f"{bench}: has neither serve32 nor growth: run the bench with both.")
    return parts


def _crowd(data: Mapping[str, Any]) -> dict[str, Any]:
    """Total seconds of the 32 requests, as MPD and as soups in three ways."""
    if not (crowd := data.get("serve32")):
        return {}
    seconds = {name: spread["median"] for name, spread in crowd["seconds"].items()}
    mine = seconds["mpd"]
    rows = [
        {"way": WAYS[name], "seconds": time, "mpd_over_it": mine / time}
        for name, time in seconds.items()
        if name in WAYS
    ]
    shared = {key: crowd[key] for key in ("requests", "preferences")}
    return {"crowd": {**shared, "mpd_seconds": mine, "rows": rows}}


def _growth(data: Mapping[str, Any]) -> dict[str, Any]:
    """Cost of a step of b requests over that of one, as measured and by the paper's model."""
    if not (growth := data.get("growth")):
        return {}
    # Of the bench's lines the one over requests: the others hold their number.
    points = max(growth["lines"].values(), key=lambda line: len({p["requests"] for p in line}))
    steps = {p["requests"]: float(p["ms_per_step"]) for p in points}
    if not all(0 < value < math.inf for pair in steps.items() for value in pair):
        raise ValueError("growth: times must be above 0")
    rows = [
        {"requests": n, "measured": step / steps[1], "model": 1.0, "one_by_one": float(n)}
        for n, step in steps.items()
    ]
    return {"growth": {"experts": points[0]["experts"], "rows": rows}}


def save(found: Mapping[str, Any], folder: Path) -> Path:
    """Write JSON, Markdown and the page with its plot; the path of the page."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        JSON: json.dumps(found, indent=1, allow_nan=False) + "\n",
        MARKDOWN: f"# Efficiency\n\n{markdown(found)}",
        HTML: page(found),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder / HTML


def markdown(found: Mapping[str, Any]) -> str:
    """Both tables."""
    crowd, growth = found.get("crowd"), found.get("growth")
    machine = [f"{key} {value}" for key, value in found["machine"].items() if value is not None]
    return rendered(
        "efficiency.md",
        machine=machine,
        crowd=crowd,
        soups=_soups(crowd) if crowd else None,
        model=MODEL,
        growth=growth,
        costs=_costs(growth) if growth else None,
    )


def _soups(crowd: Mapping[str, Any]) -> Table:
    count, (soups, theirs) = crowd["requests"], PAPER
    mine = f"{crowd['mpd_seconds'] / count:.3f}"
    said = ["the paper's soups, one A6000", f"{soups}", f"{theirs}", percent(theirs / soups)]
    rows = (
        [row["way"], f"{row['seconds'] / count:.3f}", mine, percent(row["mpd_over_it"])]
        for row in crowd["rows"]
    )
    return ["soups", "a soup", "MPD", "MPD over it, percent"], [said, *rows]


def _costs(growth: Mapping[str, Any]) -> Table:
    head = ["requests", "cost over one request", "model", "over one by one", "model"]
    rows = [
        [
            *(f"{row['requests']:g}", number(row["measured"]), number(row["model"])),
            *(number(row[kind] / row["one_by_one"], 3) for kind in ("measured", "model")),
        ]
        for row in growth["rows"]
    ]
    return head, rows


def page(found: Mapping[str, Any]) -> str:
    """One page that opens offline, with the plot of the model against what was measured."""
    chart = ""
    if growth := found.get("growth"):
        curves = {
            kind: [(row["requests"], row[key]) for row in growth["rows"]]
            for kind, key in zip(KINDS, ("measured", "model", "one_by_one"), strict=True)
        }
        title = "Cost of a step over that of one request, by requests"
        chart = line_chart(title, curves, powers=True)
    tables = markdown(found)
    return rendered("efficiency.html", title="Efficiency", model=MODEL, chart=chart, tables=tables)
