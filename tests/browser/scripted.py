"""An engine that says what a test wants, at a pace: the page cannot tell it from the real one."""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from mpd_core.errors import BusyError, EngineError, RequestError
from mpd_core.packs import Pack
from mpd_core.request import GenerationRequest
from mpd_core.trace import StepRecord, Timing, Trace

HOSTILE = (
    "<img src=x onerror=window.pwned=1>${window.pwned=2}{{value}}<script>window.pwned=3</script>"
)
SPEECH = (
    "Plants are tiny kitchens!\n\nThey catch **sunlight**, sip water \U0001f331 and "
    "光合作用 feeds us. <b>Bold</b> &amp; [link](http://example.org/x.png) "
    "![image](http://example.org/y.png) costs $5, not $6."
)


def tokens(text: str) -> list[str]:
    """A text as a tokenizer might cut it: word pieces with their leading space."""
    return re.findall(r" ?[A-Za-z<>=.$/{}]{1,7}|\n+| ?[^\n]", text)


@dataclass(frozen=True)
class Info:
    device: str = "cpu"
    precision: str = "fp32"
    notes: tuple[str, ...] = ()


class ScriptedStream:
    """Weights that turn with the token, so that every expert leads somewhere."""

    def __init__(self, request: GenerationRequest, experts: tuple[str, ...], pause: float) -> None:
        self.request = request
        self.experts = experts
        self.pause = pause
        self.steps: list[StepRecord] = []
        self.started = time.monotonic()
        self.ended = threading.Event()
        self.reason = "stop"

    def __enter__(self) -> ScriptedStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    def cancel(self) -> None:
        if not self.ended.is_set():
            self.reason = "cancelled"
            self.ended.set()

    def __iter__(self) -> Iterator[StepRecord]:
        prompt = self.request.messages[-1].content
        if prompt.startswith("never"):
            self.ended.wait(60)
        if prompt.startswith("stuck"):
            time.sleep(4)  # a long prefill: the engine looks up only afterwards
        for i, text in enumerate(self._speech(prompt)):
            if self.ended.wait(self.pause):
                return
            if prompt.startswith("break") and i == 5:
                raise EngineError("The engine ran out of memory: ask for a shorter reply.")
            if prompt.startswith("bug") and i == 5:
                raise ZeroDivisionError
            if i == self.request.sampling.max_new_tokens:
                self.reason = "length"
                break
            yield self._step(i, text)
        self.ended.set()

    def _speech(self, prompt: str) -> list[str]:
        if prompt.startswith("hostile"):
            return [*tokens("Take this: "), HOSTILE, *tokens(" and that."), ""]
        if prompt.startswith("long"):
            return [f" {i}" for i in range(5000)]
        if prompt.startswith("echo"):
            return [*tokens(prompt), ""]
        return [*tokens(SPEECH), ""]

    def _step(self, i: int, text: str) -> StepRecord:
        raw = [math.exp(2 * math.sin(i + 2 * k)) for k in range(len(self.experts))]
        weights = {e: value / sum(raw) for e, value in zip(self.experts, raw, strict=True)}
        logprobs = {e: -0.2 * (1 + (i + k) % 7) for k, e in enumerate(self.experts)}
        probability = sum(w * math.exp(logprobs[e]) for e, w in weights.items())
        step = StepRecord(i, i, text, weights, probability, logprobs, 0.3 * (i % 9), 0.05 * (i % 5))
        self.steps.append(step)
        return step

    def trace(self) -> Trace:
        seconds = time.monotonic() - self.started
        request = self.request
        return Trace(
            pack="scripted", hashes={}, trained=True, messages=(),
            prompt=request.messages[-1].content, preference=request.preference,
            poles=self.experts, method=request.method, space=request.space, settings={},
            seed=request.sampling.seed, device="cpu", precision="fp32",
            text="".join(step.text for step in self.steps),
            finish_reason=self.reason,  # type: ignore[arg-type]
            prompt_tokens=3, timing=Timing(0.01, seconds, len(self.steps) / max(seconds, 1e-6)),
            steps=tuple(self.steps),
        )  # fmt: skip


class ScriptedEngine:
    """Same shape as ``mpd_core.engine.Engine``; remembers requests and streams."""

    def __init__(self, pack: Pack, pause: float = 0.01, notes: tuple[str, ...] = ()) -> None:
        self.pack = pack
        self.pause = pause
        self.info = Info(notes=notes)
        self.methods = ("mpd", "uniform", *(f"expert:{pole.name}" for pole in pack.space.poles))
        self.streams: list[ScriptedStream] = []

    def submit(self, request: GenerationRequest) -> ScriptedStream:
        poles = tuple(pole.name for pole in self.pack.space.parse(request.preference).poles)
        if request.method not in self.methods:
            raise RequestError(f"Unknown method '{request.method}': use {', '.join(self.methods)}.")
        if not poles:
            raise RequestError("Every dimension is left out: choose at least one pole.")
        prompt = request.messages[-1].content
        if prompt.startswith("busy"):
            raise BusyError("The engine is full: try again in a moment.")
        single = request.method.removeprefix("expert:")
        experts = poles if single == request.method else (single,)
        pause = 0.05 if prompt.startswith("slow") else self.pause
        stream = ScriptedStream(request, experts, 0.0 if prompt.startswith("long") else pause)
        self.streams.append(stream)
        return stream

    def close(self) -> None:
        for stream in self.streams:
            stream.cancel()
