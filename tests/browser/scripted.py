"""An engine that says what a test wants, at a pace: the page cannot tell it from the real one."""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from mpd_core.errors import BusyError, EngineError, RequestError
from mpd_core.packs import Pack
from mpd_core.request import Branch, GenerationRequest
from mpd_core.trace import Candidate, StepRecord, Timing, Trace
from mpd_core.ui.handlers import FRAME_SECONDS

HOSTILE = (
    "<img src=x onerror=window.pwned=1>${window.pwned=2}{{value}}<script>window.pwned=3</script>"
)
TALE = [f" {i}" for i in range(600)]
SPEECH = (
    "Plants are tiny kitchens!\n\nThey catch **sunlight**, sip water \U0001f331 and "
    "光合作用 feeds us. <b>Bold</b> &amp; [link](http://example.org/x.png) "
    "![image](http://example.org/y.png) costs $5, not $6."
)

ARABIC = ("الن", "بات", "ات", " تص", "نع", " غذاء", "ها", " من", " ضوء", " الشمس", ".")


def tokens(text: str) -> list[str]:
    """A text as a tokenizer might cut it: word pieces with their leading space."""
    return re.findall(r" ?[A-Za-z<>=.$/{}]{1,7}|\n+| ?[^\n]", text)


VOCABULARY, TOP_K = 40, 5
SENT = 1.5 * FRAME_SECONDS
"""A pause after which the next token is sent at once, with all before it."""


def distribution(step: int, expert: int) -> list[float]:
    """One expert's whole next-token distribution at a step: peaked, and unlike its neighbours'."""
    raw = [math.exp(2.5 * math.sin(1.7 * v * (expert + 1) + step)) for v in range(VOCABULARY)]
    return [value / sum(raw) for value in raw]


def mixture(said: dict[str, list[float]], weights: dict[str, float]) -> list[float]:
    """Eq. 1 over the whole vocabulary."""
    return [sum(w * said[e][v] for e, w in weights.items()) for v in range(VOCABULARY)]


def entropy(p: list[float]) -> float:
    return -sum(q * math.log(q) for q in p if q > 0)


def divergence(said: dict[str, list[float]], weights: dict[str, float]) -> float:
    """Jensen-Shannon, over the whole vocabulary."""
    return entropy(mixture(said, weights)) - sum(w * entropy(said[e]) for e, w in weights.items())


def candidates(
    said: dict[str, list[float]], weights: dict[str, float], chosen: int, text: str
) -> tuple[Candidate, ...]:
    """The union of the top k of the mixture and of each expert, as the engine records it."""
    merged = mixture(said, weights)
    tops = [
        sorted(range(VOCABULARY), key=lambda v: -p[v])[:TOP_K] for p in [merged, *said.values()]
    ]
    return tuple(
        Candidate(
            v, text if v == chosen else f" word{v}", merged[v],
            {e: math.log(p[v]) for e, p in said.items()},
        )
        for v in sorted({v for top in tops for v in top}, key=lambda v: -merged[v])
    )  # fmt: skip


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
        self.ended, self.unstuck = threading.Event(), threading.Event()
        self.left = threading.Event()
        """Whether who read this stream has let it go."""
        self.held = self.held_after()
        self.reason = "stop"

    def __enter__(self) -> ScriptedStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()
        self.left.set()

    def ahead(self) -> int:
        """As prompts say: "never behind 3"."""
        found = re.match(r"never behind (\d+)", self.request.messages[-1].content)
        return int(found[1]) if found else 0

    def held_after(self) -> int:
        """Tokens after which the engine waits for the test: "held" after 5, "held after 60"."""
        found = re.match(r"held(?: after (\d+))?", self.request.messages[-1].content)
        return int(found[1] or 5) if found else -1

    def go_on(self, count: int) -> None:
        """Write some more tokens of a reply that is held."""
        self.held += count

    def cancel(self) -> None:
        if not self.ended.is_set():
            self.reason = "cancelled"
            self.ended.set()

    def __iter__(self) -> Iterator[StepRecord]:
        prompt = self.request.messages[-1].content
        if prompt.startswith("never"):
            self.ended.wait()
        if prompt.startswith("stuck"):
            self.unstuck.wait()  # a long prefill: the engine looks up only afterwards
        branch = self.request.branch or Branch()
        for i, text in enumerate(self._speech(prompt)):
            if i >= len(branch.prefix) and self.ended.wait(self.pause):
                return
            if i == self.held - 1 and self.ended.wait(SENT):
                return
            while i == self.held and not self.unstuck.is_set():
                if self.ended.wait(0.02):
                    return
            if prompt.startswith("break") and i == 5:
                raise EngineError("The engine ran out of memory: ask for a shorter reply.")
            if prompt.startswith("bug") and i == 5:
                raise ZeroDivisionError
            if i == self.request.sampling.max_new_tokens:
                self.reason = "length"
                break
            if i >= len(branch.prefix):
                yield self._step(i, text, branch)
        self.ended.set()

    def _speech(self, prompt: str) -> list[str]:
        if prompt.startswith(("slow tale", "unhurried tale")) or re.match(r"held.* tale", prompt):
            return list(TALE)
        if prompt.startswith("hostile"):
            return [*tokens("Take this: "), HOSTILE, *tokens(" and that."), ""]
        if prompt.startswith(("long", "brisk")):
            return [f" {i}" for i in range(5000)]
        if prompt.startswith("echo"):
            return [*tokens(prompt), ""]
        if prompt.startswith("speak arabic"):
            return [*ARABIC, ""]
        return [*tokens(SPEECH), ""]

    def _step(self, i: int, text: str, branch: Branch) -> StepRecord:
        first = i == len(branch.prefix)
        raw = [math.exp(2 * math.sin(i + 2 * k)) for k in range(len(self.experts))]
        weights = {e: value / sum(raw) for e, value in zip(self.experts, raw, strict=True)}
        if branch.weights and (branch.lasting or first):
            weights = dict(zip(self.experts, branch.weights, strict=True))
        said = {e: distribution(i, k) for k, e in enumerate(self.experts)}
        chosen = (3 * i) % VOCABULARY
        if branch.token is not None and first:
            chosen, text = branch.token, f" word{branch.token}"
        logprobs = {e: math.log(p[chosen]) for e, p in said.items()}
        step = StepRecord(
            i, chosen, text, weights, mixture(said, weights)[chosen], logprobs,
            0.3 * (i % 9), divergence(said, weights),
            divergence(said, dict.fromkeys(said, 1 / len(said))),
            candidates(said, weights, chosen, text),
        )  # fmt: skip
        self.steps.append(step)
        return step

    def trace(self) -> Trace:
        seconds = time.monotonic() - self.started
        request = self.request
        return Trace(
            pack="scripted", hashes={}, trained=True,
            messages=tuple(asdict(message) for message in request.messages),
            prompt=request.messages[-1].content, preference=request.preference,
            poles=self.experts, method=request.method, space=request.space,
            settings={k: v for k, v in asdict(request.sampling).items() if k != "seed"},
            seed=request.sampling.seed, device="cpu", precision="fp32",
            text="".join(step.text for step in self.steps),
            finish_reason=self.reason,  # type: ignore[arg-type]
            prompt_tokens=3, timing=Timing(0.01, seconds, len(self.steps) / max(seconds, 1e-6)),
            steps=tuple(self.steps), branch=asdict(request.branch) if request.branch else None,
        )  # fmt: skip


class ScriptedEngine:
    """Same shape as ``mpd_core.engine.Engine``; remembers requests and streams."""

    def __init__(self, pack: Pack, pause: float = 0.001, notes: tuple[str, ...] = ()) -> None:
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
        paces = {"slow": 0.05, "unhurried": 0.15, "long": 0.0, "brisk": 1 / 60}
        pause = next((p for word, p in paces.items() if prompt.startswith(word)), self.pause)
        stream = ScriptedStream(request, experts, pause)
        self.streams.append(stream)
        return stream

    def close(self) -> None:
        for stream in self.streams:
            stream.unstuck.set()
            stream.cancel()
