"""This project's engine as a competitor: it is used as any client uses it."""

from __future__ import annotations

import math
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import Any

from mpd_core.bench.options import BenchError
from mpd_core.bench.values import Query, Spec, StepLogProbs, Timing
from mpd_core.engine import Engine, Stream
from mpd_core.engine.memory import held_bytes, process_memory
from mpd_core.packs import load_pack
from mpd_core.request import GenerationRequest, Message, Sampling
from mpd_core.trace import StepRecord


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

    def decode(self, asks: tuple[Query, ...], tokens: int) -> Timing:
        """All requests at once."""
        return self._timed(asks, tokens, time.monotonic())

    def grouped(self, asks: tuple[Query, ...], tokens: int) -> Timing:
        """Requests of equal preference at once, one preference after the other."""
        start = time.monotonic()
        ordered = sorted(asks, key=lambda ask: ask.preference)
        groups = groupby(ordered, key=lambda ask: ask.preference)
        return Timing.joined(self._timed(tuple(group), tokens, start) for _, group in groups)

    def said(self, ask: Query, tokens: int) -> StepLogProbs:
        """One reply, with what a trace records of its distributions."""
        steps = self._engine.generate(_request(ask, tokens)).steps
        found = ({c.token_id: math.log(c.probability) for c in step.top_k} for step in steps)
        return tuple((step.token_id, some) for step, some in zip(steps, found, strict=True))

    def text(self, ask: Query, tokens: int) -> str:
        """A greedy reply, as a visitor reads it."""
        return self._engine.generate(_request(ask, tokens)).text

    def memory(self) -> dict[str, Any]:
        """Bytes of the weights by what they are, and of the process."""
        return {"weights": held_bytes(self._engine._runner), **process_memory()}

    def _timed(self, asks: tuple[Query, ...], tokens: int, start: float) -> Timing:
        streams = [self._engine.submit(_request(ask, tokens)) for ask in asks]
        # A reader for every visitor. Readers run no products, so they have no OpenMP pools.
        with ThreadPoolExecutor(len(streams)) as readers:
            replies = list(readers.map(_read, streams))
        for reply in replies:
            if len(reply) != tokens:
                raise BenchError(f"A reply ended after {len(reply)} of {tokens} tokens.")
        return Timing(
            tuple(tuple(step.token_id for _, step in reply) for reply in replies),
            tuple(tuple(when - start for when, _ in reply) for reply in replies),
        )


def _request(ask: Query, tokens: int) -> GenerationRequest:
    sampling = Sampling(max_new_tokens=tokens)
    return GenerationRequest(
        (Message("user", ask.prompt),), ask.preference, ask.method, sampling=sampling
    )


def _read(stream: Stream) -> list[tuple[float, StepRecord]]:
    return [(time.monotonic(), step) for step in stream]
