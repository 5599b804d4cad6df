"""What every measure works with: options, requests, competitors, and the checks between them.

Why competitors run in processes of their own: OpenMP keeps one pool of threads for every Python
thread that ever ran a product, and once the pools of a process have more threads than there are
cores, every product waits up to twice as long. So each has its process, with one pool, on all
cores; whoever does not run waits on a pipe, with its threads asleep. Turns alternate, A B A B, so
that a machine that slows down slows all alike. The measure ``tax`` checks that this is fair: a
plain model, before the others have started and among them, costs the same.
"""

from __future__ import annotations

import logging
import multiprocessing
import random
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mpd_core.bench import llama_cpp, ours, peers
from mpd_core.bench.values import (
    PROMPTS,
    BenchError,
    BenchOptions,
    Spec,
    StepLogProbs,
    Timing,
)
from mpd_core.console import tell
from mpd_core.engine import Engine
from mpd_core.engine.status import held_bytes, process_memory
from mpd_core.errors import MPDError
from mpd_core.packs import load_pack
from mpd_core.request import GenerationRequest, Message, Sampling

OPEN: dict[str, Callable[[Spec], Any]] = {
    "engine": ours.engine,
    "one_core": ours.engine,
    "wide": lambda spec: ours.engine(spec, "wide"),
    "plain": peers.Peer,
    "plain_fp32": lambda spec: peers.Peer(replace(spec, precision="fp32")),
    "peft": peers.peft,
    "separate": peers.separate,
    "llama": llama_cpp.LlamaCpp,
}
"""Kinds of competitors. What is asked of one is a function of what its line here returns."""
PAUSE_S = 0.25
"""Between turns: threads of the last one stop spinning, and fall asleep."""
CHECK_TOKENS = 8
EXACT = 2e-3
"""Natural log: fp32 sums in another order."""
ROUNDED = 0.1
"""Weights were rounded to fp16 on one side: packed, or with an adapter merged into them."""
HALF = 0.25
"""Activations in bf16 or fp16, 4-bit kernels that depend on the number of rows."""

_opened: dict[tuple[str, Spec], Any] = {}
"""The competitor of a process that has one."""


def _call(kind: str, spec: Spec, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    if (kind, spec) not in _opened:
        _opened[kind, spec] = OPEN[kind](spec)
    return function(_opened[kind, spec], *arguments)


def _close(kind: str, spec: Spec) -> None:
    opened = _opened.pop((kind, spec), None)
    if isinstance(opened, Engine):
        opened.close()


def _be_quiet() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)


def memory(competitor: Any) -> dict[str, Any]:
    """Bytes of a competitor's weights by what they are, and of its process."""
    return {"weights": held_bytes(competitor), **process_memory()}


@dataclass
class BenchContext:
    """One run of the bench.

    Attributes:
        options: sizes and choices.
        spec: what competitors load.
        apart: whether each has a process of its own; False, a thread, where only results matter.
    """

    options: BenchOptions
    spec: Spec
    apart: bool = True
    checks: list[dict[str, Any]] = field(default_factory=list)
    _executors: dict[str, Executor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        info = self.call("engine", Engine.status)
        self.on_cpu, self.precision = info["device"] == "cpu", str(info["precision"])
        self.mergeable = not self.precision.startswith("nf4")  # not to be quantised anew
        self.pack = load_pack(self.spec.scratch / "pack")  # with random adapters
        self.experts = len(self.pack.space.dimensions)  # of one request

    def call(self, kind: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """What a function gives of a competitor, which is loaded at the first call.

        Raises:
            MPDError: whatever went wrong, with the traceback of that process as its cause.
        """
        if kind not in self._executors:
            spawn = multiprocessing.get_context("spawn")
            apart = ProcessPoolExecutor(1, spawn, _be_quiet) if self.apart else None
            self._executors[kind] = apart or ThreadPoolExecutor(1)
        time.sleep(PAUSE_S * self.apart)
        try:
            run = self._executors[kind].submit(_call, kind, self.spec, function, arguments)
            return run.result()
        except MPDError:
            raise
        except Exception as error:
            text = f"'{kind}' failed: {type(error).__name__}: {error}"
            raise BenchError(f"{text}; use smaller sizes if memory is short.") from error

    def close(self) -> None:
        """Close all competitors: the next call of one loads it anew."""
        while self._executors:
            kind, executor = self._executors.popitem()
            with suppress(Exception), executor:  # it may have died
                executor.submit(_close, kind, self.spec).result()

    def ask(
        self, number: int = 0, method: str = "mpd", *, preference: str = "", tokens: int = 0
    ) -> GenerationRequest:
        """A greedy request; by default with the pack's first preference and the options' tokens."""
        message = Message("user", PROMPTS[number % len(PROMPTS)])
        sampling = Sampling(max_new_tokens=tokens or self.options.tokens)
        code = preference or "A" * self.experts
        return GenerationRequest((message,), code, method, sampling=sampling)

    def crowd(self, count: int, method: str = "mpd", tokens: int = 0) -> list[GenerationRequest]:
        """Requests with random preferences: the same ones for every method."""
        draw, codes = random.Random(0), self.pack.space.codes
        drawn = [draw.choice(codes) for _ in range(count)]
        return [self.ask(k, method, preference=p, tokens=tokens) for k, p in enumerate(drawn)]

    def take_turns(self, contests: Mapping[str, tuple[Any, ...]]) -> dict[str, list[Timing]]:
        """Time each, a ``call``'s arguments, so often, in turn, after an uncounted round."""
        tell(f"Timing {', '.join(contests)}.")
        rounds = [
            {name: self.call(*contest) for name, contest in contests.items()}
            for _ in range(1 + self.options.repeats)
        ]
        return {name: [one[name] for one in rounds[1:]] for name in contests}

    def check(self, kind: str, scheme: Any, ask: GenerationRequest, *, exact: bool) -> None:
        """Hold a peer to the engine's distributions, on the engine's own tokens.

        ``exact`` says whether the peer computes with the very values of a packed engine's weights.

        Raises:
            BenchError: they differ by more than their arithmetic explains.
        """
        ask = replace(ask, sampling=Sampling(max_new_tokens=CHECK_TOKENS))
        own: StepLogProbs = self.call("engine", ours.log_probs, ask)
        theirs: StepLogProbs = self.call(kind, peers.replay, scheme, ask, own)
        same = self.precision == "fp32" or (exact and not self.precision.startswith("blocks"))
        tolerance = HALF if not self.on_cpu else EXACT if same else ROUNDED
        label = f"{kind}, {scheme.__name__}, {ask.method}"
        check = {"peer": label, **compare(own, theirs), "tolerance": tolerance}
        self.checks.append(check)
        if not check["max_log_prob_difference"] <= tolerance:
            raise BenchError(
                f"'{label}' does not give the engine's distribution: log-probabilities differ by "
                f"{check['max_log_prob_difference']:.2g}, and {tolerance:g} is the most."
            )


def compare(ours: StepLogProbs, theirs: StepLogProbs) -> dict[str, Any]:
    """Largest difference of a candidate's log-probability, over all steps; equal choices."""
    steps = [(*own, *other) for own, other in zip(ours, theirs, strict=True)]
    differences = [own[id_] - other[id_] for _, own, _, other in steps for id_ in own]
    worst = float(np.abs(differences).max())  # NaN where any is, which is no agreement
    same = sum(token == choice for token, _, choice, _ in steps)
    return {"max_log_prob_difference": worst, "same_choice": f"{same} of {len(ours)}"}
