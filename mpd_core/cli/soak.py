"""Load test: clients that finish, stop or disconnect; nothing may hang, leak or change its text."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from mpd_core.bench.values import PROMPTS
from mpd_core.engine import Engine
from mpd_core.engine.status import process_memory
from mpd_core.errors import BusyError
from mpd_core.request import GenerationRequest, Message, Sampling

LONG = "Tell me a story about a lighthouse keeper and a very large storm that lasted for nine days."
STUCK_SECONDS = 120.0
"""A stream that gives nothing for this long counts as stuck."""
SAMPLE_SECONDS = 2.0
BACK_OFF_SECONDS = 0.2


@dataclass
class SoakResult:
    """How each visit ended, and failures; none in a good run.

    ``memory`` is resident megabytes without the KV cache, sampled every two seconds; ``cache`` the
    megabytes of the cache that were ever written.
    """

    visits: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    cache: float = 0.0

    def sample(self) -> None:
        """Note the memory of this moment."""
        held = process_memory()
        self.memory.append((held["resident"] - held["cache_resident"]) / 1e6)
        self.cache = held["cache_resident"] / 1e6

    def to_dict(self) -> dict[str, Any]:
        """For the final JSON line; growth is that of the last fifth over the second, on average.

        Of fewer than five samples growth cannot be told, and is None.
        """
        fifth, held = len(self.memory) // 5, self.memory
        growth = fmean(held[-fifth:]) - fmean(held[fifth : 2 * fifth]) if fifth else None
        rest = {"peak_mb": max(held, default=0.0), "growth_mb": growth, "cache_mb": self.cache}
        return {**Counter(self.visits), "failures": self.failures, **rest}


def make_requests(engine: Engine, count: int, seed: int = 0) -> list[GenerationRequest]:
    """Requests of different prompts, preferences, methods, lengths and temperatures."""
    draw = random.Random(seed)
    codes = engine.pack.space.codes
    methods = [m for m in engine.methods if not m.startswith("expert:")]
    requests = []
    for _ in range(count):
        message = Message("user", draw.choice((*PROMPTS[:3], LONG)))
        code, method, tokens = draw.choice(codes), draw.choice(methods), draw.randint(2, 40)
        temperature, own = draw.choice([0.0, 0.7, 1.0]), draw.randint(0, 999)
        sampling = Sampling(tokens, temperature=temperature, top_p=0.95, seed=own)
        requests.append(GenerationRequest((message,), code, method, sampling=sampling))
    return requests


def soak(engine: Engine, *, seconds: float, visitors: int, requests: int = 24) -> SoakResult:
    """Let visitors loose on an engine.

    Args:
        engine: with nobody else on it.
        seconds: how long new requests are made.
        visitors: at once; each is a thread with one request at a time.
        requests: different ones; each is run alone first, for its text.
    """
    asked = make_requests(engine, requests)
    alone = [[step.token_id for step in engine.generate(request).steps] for request in asked]
    result, end = SoakResult(), time.monotonic() + seconds

    def visit(seed: int) -> None:
        draw = random.Random(1000 + seed)
        while time.monotonic() < end:
            which = draw.randrange(len(asked))
            stay = draw.choice([None, None, None, draw.randint(0, 20)])
            try:
                tokens, waited = _read(engine, asked[which], stay)
            except BusyError:
                result.visits.append("busy")
                time.sleep(BACK_OFF_SECONDS)
                continue
            except Exception as error:
                result.failures.append(f"request {which}: {error}")
                continue
            result.visits.append("finished" if stay is None else "stopped")
            if waited > STUCK_SECONDS:
                result.failures.append(f"request {which}: {waited:.0f} s without a token")
            if tokens != (alone[which] if stay is None else alone[which][: len(tokens)]):
                result.failures.append(f"request {which}: another text than alone")

    threads = [threading.Thread(target=visit, args=(seed,)) for seed in range(visitors)]
    for thread in threads:
        thread.start()
    while time.monotonic() < end:
        result.sample()
        time.sleep(SAMPLE_SECONDS)
    for thread in threads:
        thread.join(STUCK_SECONDS)
        if thread.is_alive():
            result.failures.append("a visitor got no answer")
    return result


def _read(engine: Engine, request: GenerationRequest, stay: int | None) -> tuple[list[int], float]:
    """Read a stream, or leave it after ``stay`` tokens; the tokens and the longest wait."""
    tokens: list[int] = []
    longest, last = 0.0, time.monotonic()
    with engine.submit(request) as stream:
        if stay == 0:  # gone before the first token
            return tokens, longest
        for step in stream:
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
            tokens.append(step.token_id)
            if len(tokens) == stay:
                break
    return tokens, longest
