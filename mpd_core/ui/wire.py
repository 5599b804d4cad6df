"""What travels to the page: steps as compact JSON, the head of a trace, and frames.

A frame holds the last few chunks of every reply, never all of them: Gradio compares, copies and
stringifies a component's whole value at every update. A page that missed a chunk asks for the rest.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mpd_core.engine.plan import ANCHOR, PLAIN
from mpd_core.trace import Candidate, StepRecord, Trace

if TYPE_CHECKING:
    from mpd_core.ui.runs import Run

Head = dict[str, Any]
Frame = dict[str, Any]
WINDOW = 6
"""Chunks of a reply in one frame: as many updates may be lost without harm."""
DIGITS = 7
"""Significant digits of a number on the wire, and so in the page's exports."""


def encode(experts: Sequence[str], steps: Sequence[StepRecord]) -> str:
    """Steps as a JSON list of rows, in the order that ``assets/ui/trace.js`` reads them.

    A row is [text, token id, weights, probability, log-probabilities, entropy, disagreement,
    candidates, missing, divergence]; weights follow ``experts``, log-probabilities these and then
    the anchors of the space ``strength``: what shifts start from, then, where it is another, what
    they are measured from; null is minus infinity.
    """
    anchors = [name for name in (PLAIN, ANCHOR) if steps and name in steps[0].logprobs]
    voices = [*experts, *anchors]
    rows = [
        [
            step.text,
            step.token_id,
            [_number(step.weights[name]) for name in experts],
            _number(step.probability),
            _by_voice(step.logprobs, voices),
            _number(step.entropy),
            _number(step.disagreement),
            [_candidate(one, voices) for one in step.top_k],
            {name: _number(mass) for name, mass in step.missing.items()},
            _number(step.divergence),
        ]
        for step in steps
    ]
    return json.dumps(rows, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _candidate(one: Candidate, voices: Sequence[str]) -> list[Any]:
    return [one.token_id, one.text, _number(one.probability), _by_voice(one.logprobs, voices)]


def _by_voice(logprobs: Mapping[str, float], voices: Sequence[str]) -> list[float | None]:
    """One that was not asked about a token has none."""
    return [_number(logprobs.get(name, -math.inf)) for name in voices]


def _number(value: float) -> float | None:
    """Rounded for the wire; JSON has no infinity."""
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None


def head(trace: Trace) -> Head:
    """A trace without its steps."""
    return replace(trace, steps=()).to_dict()


def frame(runs: Iterable[Run], *, whole: bool = False) -> Frame:
    """What the page is told of runs at this moment: all their steps, or the latest."""
    return {"runs": {run.id: _run(run, whole) for run in runs}}


def _run(run: Run, whole: bool) -> Frame:
    status, reason = run.status, run.reason  # before the steps: an end never comes without them
    parts = run.parts()
    first = 0 if whole else max(0, len(parts) - WINDOW)
    return {
        "status": status,
        "message": reason if status in ("refused", "failed") else "",
        "finish": reason if status == "done" else "",
        "experts": list(run.experts),
        "head": json.dumps(run.head, ensure_ascii=False) if run.head is not None else "",
        "count": len(parts),
        "ahead": run.ahead,
        "parts": {str(i): parts[i] for i in range(first, len(parts))},
    }
