"""This project's engine as a competitor: it is used as any client uses it."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from operator import attrgetter

from mpd_core.bench.values import BenchError, Spec, StepLogProbs, Timing
from mpd_core.engine import Engine
from mpd_core.packs import load_pack
from mpd_core.request import GenerationRequest


def engine(spec: Spec, pack: str = "pack") -> Engine:
    """An engine on one of the bench's packs, without a prefix cache: peers read every prompt."""
    own, device = load_pack(spec.scratch / pack), spec.device
    return Engine.open(own, precision=spec.precision, device=device, kept_rows=0)


def decode(engine: Engine, asks: Sequence[GenerationRequest], start: float = 0.0) -> Timing:
    """All requests at once; ``start`` is that of the run, by ``time.monotonic``, or 0: now."""
    start = start or time.monotonic()
    streams = [engine.submit(ask) for ask in asks]
    # A reader for every visitor. Readers run no products, so they have no OpenMP pools.
    with ThreadPoolExecutor(len(streams)) as readers:
        replies = list(readers.map(lambda s: [(t.token_id, time.monotonic()) for t in s], streams))
    for reply, ask in zip(replies, asks, strict=True):
        if len(reply) != (tokens := ask.sampling.max_new_tokens):
            raise BenchError(f"A reply ended after {len(reply)} of {tokens} tokens.")
    return Timing(
        [[token for token, _ in reply] for reply in replies],
        [[when - start for _, when in reply] for reply in replies],
    )


def grouped(engine: Engine, asks: Sequence[GenerationRequest]) -> Timing:
    """Requests of equal preference at once, one preference after the other."""
    start, code = time.monotonic(), attrgetter("preference")
    groups = [list(group) for _, group in groupby(sorted(asks, key=code), key=code)]
    runs = [decode(engine, group, start) for group in groups]
    return Timing([t for run in runs for t in run.tokens], [s for run in runs for s in run.stamps])


def log_probs(engine: Engine, ask: GenerationRequest) -> StepLogProbs:
    """One reply, with what a trace records of its distributions."""
    steps = engine.generate(ask).steps
    return [(s.token_id, {c.token_id: math.log(c.probability) for c in s.top_k}) for s in steps]
