"""Runs to plain dictionaries for the page: what the JavaScript in ``assets/ui`` draws.

A frame is cumulative and made of flat lists, so that Gradio sends only what was appended.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from mpd_core.packs import Pack
from mpd_core.trace import StepRecord
from mpd_core.ui.chat import Chat, Run
from mpd_core.ui.palette import look

Frame = dict[str, Any]


def idle(chat: Chat, message: str = "") -> Frame:
    """No turn to draw: an empty page, or a message about what was asked."""
    status = "refused" if message else "idle"
    return {"chat": chat.id, "run": "", "turn": -1, "status": status, "message": message}


def frame(chat: Chat, run: Run, pack: Pack, device: str, precision: str) -> Frame:
    """Everything the page shows of a run at this moment."""
    steps = tuple(run.steps)
    experts = run.experts
    return {
        "chat": chat.id,
        "run": run.id,
        "turn": run.turn,
        "status": run.status,
        "message": run.reason if run.status in ("refused", "failed") else "",
        "prompt": run.prompt,
        "method": run.request.method,
        "asked": describe(pack, run.request.preference),
        "experts": [_expert(pack, name, i) for i, name in enumerate(experts)],
        "text": [step.text for step in steps],
        "weight": [[_number(step.weights[e]) for e in experts] for step in steps],
        "chance": [[_chance(step.logprobs.get(e)) for e in experts] for step in steps],
        "probability": [_number(step.probability) for step in steps],
        "entropy": [_number(step.entropy) for step in steps],
        "disagreement": [_number(step.disagreement) for step in steps],
        "summary": summary(run, steps, device, precision),
    }


def describe(pack: Pack, code: str) -> list[dict[str, Any]]:
    """The poles of a preference code, as the page's tags."""
    return [_expert(pack, pole.name, 0) for pole in pack.space.parse(code).poles]


def summary(run: Run, steps: Sequence[StepRecord], device: str, precision: str) -> Frame:
    """Means over the steps, and timing: the engine's own where it has reported."""
    count = len(steps)
    means = [sum(step.weights[e] for step in steps) / count for e in run.experts] if count else []
    first, rate = _timing(run, count)
    return {
        "tokens": count,
        "means": [_number(mean) for mean in means],
        "entropy": _number(sum(step.entropy for step in steps) / count) if count else None,
        "first_token_s": first,
        "tokens_per_s": rate,
        "device": device,
        "precision": precision,
        "finish": run.reason if run.status == "done" else "",
    }


def _timing(run: Run, count: int) -> tuple[float | None, float | None]:
    if run.trace is not None:
        return _number(run.trace.timing.first_token_s), _number(run.trace.timing.tokens_per_s)
    if run.first_step is None or run.last_step is None:
        return None, None
    seconds = run.last_step - run.first_step
    rate = (count - 1) / seconds if count > 1 and seconds > 0 else None
    return _number(run.first_step - run.started), rate and _number(rate)


def _expert(pack: Pack, name: str, position: int) -> dict[str, Any]:
    drawn = look(pack.space, name, position)
    return {"name": name, "slot": drawn.slot, "glyph": drawn.glyph}


def _number(value: float) -> float | None:
    """Rounded for the wire; JSON has no infinity."""
    return round(value, 5) if math.isfinite(value) else None


def _chance(logprob: float | None) -> float | None:
    return None if logprob is None else _number(math.exp(logprob))
