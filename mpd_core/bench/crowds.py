"""Many requests: against Personalized Soup, how a step grows, and beside busy neighbours."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from mpd_core.bench.context import BenchContext
from mpd_core.bench.roofline import Rows
from mpd_core.bench.values import Figure, Found, Query, Timing, ratios, spread

REQUESTS = (1, 2, 4, 8, 16, 32, 64)
EXPERTS = (1, 2, 3, 4, 6, 8, 10, 12)
CROWD_OF_EXPERTS = 8
STEPS = 12
STEPS_TO_ENTER = 3
"""A request is prefilled in chunks, one between two steps."""
MOST_TOKENS = 256
VISITORS = {"one": 1, "sixteen": 16}
BUSY = """
import os, sys
os.sched_setaffinity(0, {int(sys.argv[1])})
while os.getppid() == int(sys.argv[2]):
    for _ in range(10**6):
        pass
"""
"""A process that keeps one core busy for as long as the bench lives."""


def serve32(bench: BenchContext) -> Found:
    """Total time of a crowd: MPD over three ways to serve Personalized Soups."""
    crowds = {method: bench.crowd(bench.options.requests, method) for method in ("mpd", "soup")}
    meanings = {
        f"a{ending}": "MPD / soups request by request, transformers" + " in fp32" * fp32
        for fp32, ending in bench.peer_precisions.items()
    } | {
        "b": "MPD / soups grouped by preference, this engine",
        "c": "MPD / soups as stacked adapters, one batch, this engine",
    }
    runs = bench.take_turns(_contests(bench, **crowds))
    seconds = {name: spread([run.seconds for run in some]) for name, some in runs.items()}
    rows = {f"serve32.{name}": ("mpd", name, meaning) for name, meaning in meanings.items()}
    latency = {name: _latency(runs[name]) for name in ("mpd", "c")}
    what = {"first": "to the first token", "gap": "between tokens", "p50": "median", "p95": "95%"}
    figures = [
        Figure(f"serve32.{key}", value, "ms {}, {}".format(*(what[k] for k in key.split("_"))))
        for key, value in latency["mpd"].items()
    ]
    data = {
        "requests": bench.options.requests,
        "preferences": len({ask.preference for ask in crowds["mpd"]}),
        "seconds": seconds,
        "merging_s": {name: some[-1].uncounted for name, some in runs.items() if name[0] == "a"},
        "latency_ms": latency,
        "regime": {"mpd": _regime(bench, crowds["mpd"]), "c": _regime(bench, crowds["soup"])},
    }
    return ratios(rows, seconds) + figures, data


def _contests(
    bench: BenchContext, mpd: tuple[Query, ...], soup: tuple[Query, ...]
) -> Mapping[str, Callable[[], Timing]]:
    engine, tokens = bench.get("engine").call, bench.options.tokens
    contests = {
        "mpd": partial(engine, "decode", mpd, tokens),
        "b": partial(engine, "grouped", soup, tokens),
        "c": partial(engine, "decode", soup, tokens),
    }
    for fp32, ending in bench.peer_precisions.items():
        plain = bench.get("plain", fp32=fp32)
        if bench.mergeable:
            bench.check(f"soup a{ending}", plain, "cached", soup[0], rounded=not fp32)
        contests[f"a{ending}"] = partial(plain.call, "generate", soup, tokens)
    return contests


def _latency(runs: list[Timing]) -> dict[str, float]:
    """The smallest values that at least half, and 95%, of all do not exceed."""
    kinds = {
        "first": sorted(ms for run in runs for ms in run.first_ms),
        "gap": sorted(ms for run in runs for ms in run.gaps_ms),
    }
    return {
        f"{kind}_p{percent}": values[math.ceil(len(values) * percent / 100) - 1]
        for kind, values in kinds.items()
        for percent in (50, 95)
    }


def _regime(bench: BenchContext, asks: tuple[Query, ...]) -> dict[str, Any]:
    """What binds a step of the full crowd, and how near it comes to its floor."""
    poles = {pole for ask in asks for pole in bench.pack.space.parse(ask.preference).poles}
    count, experts = len(asks), bench.experts
    # A soup's row adds up as many adapters as it has poles.
    rows = Rows(count, 0, len(poles), bench.context, mixed=experts)
    if asks[0].method == "mpd":
        rows = Rows(experts * count, count, len(poles) + 1, bench.context, texts=2 * count)
    return {**bench.least(rows), "step_ms": step_of(bench, "engine", asks)}


def step_of(bench: BenchContext, kind: str, asks: tuple[Query, ...]) -> float | None:
    """Milliseconds a step while all decode; None where their rows do not fit at once."""
    # Requests enter one after the other: the first must not end before the last has entered.
    tokens = min(STEPS_TO_ENTER * (len(asks) - 1) + STEPS, MOST_TOKENS)
    run: Timing = bench.get(kind).call("decode", asks, tokens)
    return run.together_ms


def growth(bench: BenchContext) -> Found:
    """Milliseconds a step and tokens a second, over requests and over experts."""
    most, widest, experts = bench.options.largest, bench.options.widest, bench.experts
    crowds = [(n, experts, bench.crowd(n, "mpd")) for n in REQUESTS if n <= most]
    lines = {f"requests, {experts} experts + PCM": _points(bench, "engine", crowds)}
    bench.pool.keep("machine")
    for crowd in sorted({1, min(CROWD_OF_EXPERTS, most)}):
        wide = []
        for n in (n for n in EXPERTS if n <= widest):
            code = "A" * n + "-" * (widest - n)
            wide.append((n, n, tuple(bench.ask(k, preference=code) for k in range(crowd))))
        lines[f"experts, {crowd} request{'s' * (crowd > 1)}"] = _points(bench, "wide", wide)
    best = max((p["tokens_per_s"] for line in lines.values() for p in line), default=None)
    meaning = "most tokens a second, all requests together"
    return [Figure("growth.most", best, meaning)], {"lines": lines}


def _points(
    bench: BenchContext, kind: str, crowds: list[tuple[int, int, tuple[Query, ...]]]
) -> list[dict[str, float]]:
    """A line of x, experts and requests; without those whose rows do not fit at once."""
    points = []
    for x, experts, asks in crowds:
        bench.tell(f"Growth: {len(asks)} requests, {experts} experts.")
        if (step := step_of(bench, kind, asks)) is not None:
            point = {"x": x, "requests": len(asks), "experts": experts, "ms_per_step": step}
            points.append({**point, "tokens_per_s": 1000 * len(asks) / step})
    return points


def shared(bench: BenchContext) -> Found:
    """Speed beside a busy process a core over half of the quiet speed; then that on one core."""
    if not hasattr(os, "sched_setaffinity") or not bench.on_cpu:
        reason = "needs Linux" if bench.on_cpu else "the engine is on a GPU"
        return [Figure("shared", None, f"share of its fair share that it keeps: {reason}")], {}
    cores = sorted(os.sched_getaffinity(0))
    figures, data = [], dict[str, dict[str, float]]()
    for name, count in VISITORS.items():
        asks, settle = bench.crowd(count, "mpd"), bench.options.settle
        bench.tell(f"Timing {count} beside busy neighbours.")
        quiet = _settled(bench, "engine", asks)
        with _neighbours(cores):
            busy = _settled(bench, "engine", asks, settle)
        quiet += _settled(bench, "engine", asks, settle)
        os.sched_setaffinity(0, cores[-1:])  # what is started now may run there only
        try:
            alone = _settled(bench, "one_core", asks)
        finally:
            os.sched_setaffinity(0, cores)
        seconds = {"quiet": spread(quiet), "busy": spread(busy), "one_core": spread(alone)}
        data |= {f"{name} {key}": found for key, found in seconds.items()}
        texts = (("busy", 0.5, f"beside {len(cores)} busy"), ("one_core", 1 / len(cores), "there"))
        for key, fair, what in texts:
            share = seconds["quiet"]["median"] / seconds[key]["median"] / fair
            meaning = f"{what}: share of its fair share that it keeps, {count} at once"
            figures.append(Figure(f"shared.{key}_{name}", share, meaning))
    return figures, {"seconds": data}


def _settled(
    bench: BenchContext, kind: str, asks: tuple[Query, ...], settle: int = 0
) -> list[float]:
    """Seconds of the repeats, after one that does not count and as many as fill ``settle``."""
    begun, run = time.monotonic(), partial(bench.get(kind).call, "decode", asks)
    run(bench.options.tokens)
    while time.monotonic() < begun + settle:
        run(bench.options.tokens)
    return [run(bench.options.tokens).seconds for _ in range(bench.options.repeats)]


@contextmanager
def _neighbours(cores: list[int]) -> Iterator[None]:
    parent = str(os.getpid())
    busy = [subprocess.Popen([sys.executable, "-c", BUSY, str(core), parent]) for core in cores]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()
