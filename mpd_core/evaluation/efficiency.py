"""The paper's efficiency (section 4.5, A.3) beside ours, from what the bench has printed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mpd_core.errors import MPDError
from mpd_core.rendering import line_chart, rendered

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
        crowd, growth = found["data"].get("serve32"), found["data"].get("growth")
        parts = {"machine": found["machine"]}
        parts |= {"crowd": _crowd(crowd)} if crowd else {}
        parts |= {"growth": _growth(growth)} if growth else {}
    except (OSError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise MPDError(
            f"{bench}: holds no result of the bench ({type(error).__name__}): write one with "
            "python -m mpd_core bench --only serve32,growth > FILE."
        ) from error
    if len(parts) == 1:
        raise MPDError(f"{bench}: has neither serve32 nor growth: run the bench with both.")
    return parts


def _crowd(crowd: Mapping[str, Any]) -> dict[str, Any]:
    """Total seconds of the 32 requests, as MPD and as soups in three ways."""
    seconds = {name: spread["median"] for name, spread in crowd["seconds"].items()}
    rows = [
        {"way": way, "seconds": seconds[name], "mpd_over_it": seconds["mpd"] / seconds[name]}
        for name, way in WAYS.items()
        if name in seconds
    ]
    shared = {key: crowd[key] for key in ("requests", "preferences")}
    return {**shared, "mpd_seconds": seconds["mpd"], "rows": rows}


def _growth(growth: Mapping[str, Any]) -> dict[str, Any]:
    """Cost of a step of b requests over that of one, as measured and by the paper's model."""
    # Of the bench's lines the one over requests: the others hold their number.
    points = max(growth["lines"].values(), key=lambda line: len({p["requests"] for p in line}))
    steps = {p["requests"]: float(p["ms_per_step"]) for p in points}
    if not all(0 < value < math.inf for pair in steps.items() for value in pair):
        raise ValueError("growth: times must be above 0")
    rows = [
        {"requests": n, "measured": step / steps[1], "model": 1.0, "one_by_one": float(n)}
        for n, step in steps.items()
    ]
    return {"experts": points[0]["experts"], "rows": rows}


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
    machine = [f"{key} {value}" for key, value in found["machine"].items() if value is not None]
    return rendered("efficiency.md", found=found, machine=machine, paper=PAPER, model=MODEL)


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
