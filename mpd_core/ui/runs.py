"""What the server remembers of replies, and what travels to the page: frames of them.

A conversation lives in the browser, which sends it with every request. So nothing is held for a
visitor who is idle, and a page needs no connection while nothing is written. Remembered are replies
that are being written, and the last ended ones.

A frame holds the last few chunks of every reply, never all of them: Gradio compares, copies and
stringifies a component's whole value at every update. A page that missed a chunk asks for the rest.
"""

from __future__ import annotations

import json
import math
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from mpd_core.engine.plan import ANCHOR, PLAIN
from mpd_core.request import GenerationRequest
from mpd_core.trace import Candidate, StepRecord, Trace

if TYPE_CHECKING:
    from mpd_core.engine import Stream

Status = Literal["waiting", "streaming", "done", "refused", "failed"]
_OPEN = ("waiting", "streaming")
Head = dict[str, Any]
Frame = dict[str, Any]
WINDOW = 6
"""Chunks of a reply in one frame: as many updates may be lost without harm."""
DIGITS = 7
"""Significant digits of a number on the wire, and so in the page's exports."""
KEPT = 32
"""Ended replies kept for pages that missed a frame or lost their connection."""


class Run:
    """One reply: what was asked, its steps so far in the page's encoding, and how it ended.

    A page's Stop and the generator that writes the reply run in different threads; whoever ends
    the run first decides how it ended, and ending it again changes nothing.
    """

    def __init__(self, name: str, request: GenerationRequest) -> None:
        self.id = name
        """Chosen by the page, at random."""
        self.request = request
        self.experts: tuple[str, ...] = ()
        self.count = 0
        """Steps so far."""
        self.head: Head | None = None
        """The trace without its steps, once the run has ended."""
        self.status: Status = "waiting"
        self.reason = ""
        self.wanted = 0.0
        """When a page that had gone last asked for it, by the monotonic clock."""
        self._parts: list[str] = []
        self._fresh: list[StepRecord] = []
        self._stream: Stream | None = None
        self._lock = threading.Lock()

    @property
    def open(self) -> bool:
        """Whether the reply is still awaited or being written."""
        return self.status in _OPEN

    @property
    def ahead(self) -> int | None:
        """How many requests the engine serves before this one; None: it does not wait there."""
        stream = self._stream
        return stream.ahead() if self.status == "waiting" and stream is not None else None

    def attach(self, stream: Stream) -> None:
        """Remember the engine's stream, so that ``close`` can cancel it from another thread."""
        with self._lock:
            self._stream = stream
            late = not self.open
        if late:
            stream.cancel()

    def add(self, step: StepRecord) -> None:
        """Take one more step, unless the run has ended."""
        with self._lock:
            if self.open:
                self.status = "streaming"
                self.count += 1
                self._fresh.append(step)

    def parts(self) -> list[str]:
        """All steps so far, in chunks that never change once they have been handed out."""
        with self._lock:
            if self._fresh:
                self._parts.append(encode(self.experts, self._fresh))
                self._fresh = []
            return self._parts[:]

    def close(self, status: Status, reason: str) -> bool:
        """End the run; False if it had ended already."""
        with self._lock:
            if not self.open:
                return False
            self.status, self.reason = status, reason
            stream = self._stream
        if stream is not None:
            stream.cancel()
            self.finish(stream.trace())
        return True

    def finish(self, trace: Trace) -> None:
        """Keep what a trace says beside its steps; the steps are here already."""
        self.head = self.head or head(trace)


class Runs:
    """Runs by id. The ids are random, so who knows one has it from its own page."""

    def __init__(self) -> None:
        self._runs: OrderedDict[str, Run] = OrderedDict()
        self._stopped: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, run: Run) -> bool:
        """Take a run up; False if its id is known, or was stopped before it came here."""
        with self._lock:
            if run.id in self._runs or run.id in self._stopped:
                return False
            self._runs[run.id] = run
            ended = [name for name, other in self._runs.items() if not other.open]
            for name in ended[: max(0, len(ended) - KEPT)]:
                del self._runs[name]
            return True

    def stop(self, names: Iterable[str]) -> list[Run]:
        """End runs as their visitor asks; those that have not arrived yet never begin."""
        with self._lock:
            known = [self._runs[name] for name in names if name in self._runs]
            for name in names:
                if name not in self._runs:
                    self._stopped[name] = None
            while len(self._stopped) > KEPT * 8:
                self._stopped.popitem(last=False)
        for run in known:
            run.close("done", "cancelled")
        return known

    def find(self, names: Iterable[str]) -> list[Run]:
        with self._lock:
            return [self._runs[name] for name in names if name in self._runs]


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
    return {"runs": {run.id: _framed(run, whole) for run in runs}}


def _framed(run: Run, whole: bool) -> Frame:
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
