"""This project's engine as a competitor: it is used as any client uses it."""

from __future__ import annotations

import math
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import Any

import torch

from mpd_core.bench.options import BenchError
from mpd_core.bench.values import Ask, Run, Said, Spec
from mpd_core.engine import Engine, Stream
from mpd_core.engine.memory import held_bytes, process_memory
from mpd_core.packs import load_pack
from mpd_core.request import GenerationRequest, Message, Sampling
from mpd_core.trace import StepRecord

OPERATORS = 8


class EngineSide:
    """An engine on the bench's pack, and what is asked of it."""

    def __init__(self, spec: Spec) -> None:
        # Peers read every prompt, and rounds repeat theirs: so does this engine here.
        pack, precision, device = load_pack(spec.folder), spec.precision, spec.device
        self._engine = Engine.open(pack, precision=precision, device=device, kept_rows=0)

    def close(self) -> None:
        self._engine.close()

    def info(self) -> dict[str, Any]:
        """What the engine says of itself."""
        return self._engine.status()

    def decode(self, asks: tuple[Ask, ...], tokens: int) -> Run:
        """All requests at once."""
        return self._timed(asks, tokens, time.monotonic())

    def grouped(self, asks: tuple[Ask, ...], tokens: int) -> Run:
        """Requests of equal preference at once, one preference after the other."""
        start = time.monotonic()
        ordered = sorted(asks, key=lambda ask: ask.preference)
        groups = groupby(ordered, key=lambda ask: ask.preference)
        return Run.joined(self._timed(tuple(group), tokens, start) for _, group in groups)

    def said(self, ask: Ask, tokens: int) -> Said:
        """One reply, with what a trace records of its distributions."""
        steps = self._engine.generate(_request(ask, tokens)).steps
        return Said(
            tokens=tuple(step.token_id for step in steps),
            candidates=tuple(tuple(c.token_id for c in step.top_k) for step in steps),
            log_probs=tuple(tuple(math.log(c.probability) for c in s.top_k) for s in steps),
            entropies=tuple(step.entropy for step in steps),
            disagreement=sum(step.disagreement for step in steps) / len(steps),
        )

    def text(self, ask: Ask, tokens: int) -> str:
        """A greedy reply, as a visitor reads it."""
        return self._engine.generate(_request(ask, tokens)).text

    def profile(self, ask: Ask, tokens: int) -> dict[str, float]:
        """Share of a reply's time that each operator takes itself, largest first; then the rest.

        The rest is Python and whatever waits. Watching slows small operators down.
        """
        config = torch._C._profiler._ExperimentalConfig(profile_all_threads=True)
        with torch.profiler.profile(experimental_config=config) as watched:
            run = self.decode((ask,), tokens)
        own = Counter[str]()
        for event in watched.key_averages():
            own[event.key] += max(event.self_cpu_time_total, event.self_device_time_total)
        total = 1e6 * run.seconds
        shares = {name: time / total for name, time in own.most_common(OPERATORS)}
        return {**shares, "the rest": max(0.0, 1 - sum(shares.values()))}

    def memory(self) -> dict[str, Any]:
        """Bytes of the weights by what they are, and of the process."""
        return {"weights": held_bytes(self._engine._runner), **process_memory()}

    def _timed(self, asks: tuple[Ask, ...], tokens: int, start: float) -> Run:
        streams = [self._engine.submit(_request(ask, tokens)) for ask in asks]
        # A reader for every visitor. Readers run no products, so they have no OpenMP pools.
        with ThreadPoolExecutor(len(streams)) as readers:
            replies = list(readers.map(_read, streams))
        for reply in replies:
            if len(reply) != tokens:
                raise BenchError(f"A reply ended after {len(reply)} of {tokens} tokens.")
        return Run(
            tuple(tuple(step.token_id for _, step in reply) for reply in replies),
            tuple(tuple(when - start for when, _ in reply) for reply in replies),
        )


def _request(ask: Ask, tokens: int) -> GenerationRequest:
    sampling = Sampling(max_new_tokens=tokens)
    return GenerationRequest(
        (Message("user", ask.prompt),), ask.preference, ask.method, sampling=sampling
    )


def _read(stream: Stream) -> list[tuple[float, StepRecord]]:
    return [(time.monotonic(), step) for step in stream]
