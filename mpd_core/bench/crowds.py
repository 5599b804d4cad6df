"""Many requests: against Personalized Soup, how a step grows, and beside busy neighbours."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise

import numpy as np

from mpd_core.bench import ours, peers
from mpd_core.bench.context import BenchContext
from mpd_core.bench.values import Figure, Found, Timing, ratios, spreads
from mpd_core.console import tell
from mpd_core.request import GenerationRequest

REQUESTS = (1, 2, 4, 8, 16, 32, 64)
EXPERTS = (1, 2, 3, 4, 6, 8, 10, 12)
CROWD_OF_EXPERTS = 8
STEPS = 12
STEPS_TO_ENTER = 3
"""A request is prefilled in chunks, one between two steps."""
MOST_TOKENS = 256
BUSY = """
import os, sys
os.sched_setaffinity(0, {int(sys.argv[1])})
while os.getppid() == int(sys.argv[2]):
    sum(range(10**6))
"""
"""A process that keeps one core busy for as long as the bench lives."""


def serve32(bench: BenchContext) -> Found:
    """Total time of a crowd: MPD over three ways to serve Personalized Soups."""
    mpd, soup = (bench.crowd(bench.options.requests, method) for method in ("mpd", "soup"))
    if bench.mergeable:
        bench.check("plain", peers.cached, soup[0], exact=False)
    runs = bench.take_turns(
        {
            "mpd": ("engine", ours.decode, mpd),
            "a": ("plain", peers.generate, soup),
            "b": ("engine", ours.grouped, soup),
            "c": ("engine", ours.decode, soup),
        }
    )
    rows = {
        "serve32.a": ("mpd", "a", "MPD / soups request by request, transformers"),
        "serve32.b": ("mpd", "b", "MPD / soups grouped by preference, this engine"),
        "serve32.c": ("mpd", "c", "MPD / soups as stacked adapters, one batch, this engine"),
    }
    seconds = spreads(runs, "seconds")
    figures = ratios(rows, seconds)
    stamps = [times for run in runs["mpd"] for times in run.stamps]
    gaps = [b - a for times in stamps for a, b in pairwise(times)]
    for name, what, waits in (
        ("first", "to the first token", [times[0] for times in stamps]),
        ("gap", "between tokens", gaps),
    ):
        for q in (50, 95):
            ms = 1000 * float(np.percentile(waits, q, method="inverted_cdf"))
            figures.append(Figure(f"serve32.{name}_p{q}", ms, f"ms {what}, {q}%"))
    data = {"requests": len(mpd), "preferences": len({ask.preference for ask in mpd})}
    return figures, {**data, "merging_s": runs["a"][-1].uncounted, "seconds": seconds}


def growth(bench: BenchContext) -> Found:
    """Milliseconds a step and tokens a second, over requests and over experts."""
    most, widest, experts = bench.options.largest, bench.options.widest, bench.experts
    crowds = [(experts, bench.crowd(n, tokens=_long(n))) for n in REQUESTS if n <= most]
    lines = {f"requests, {experts} experts + PCM": _points(bench, "engine", crowds)}
    bench.close()
    codes = {n: "A" * n + "-" * (widest - n) for n in EXPERTS if n <= widest}
    for count in sorted({1, min(CROWD_OF_EXPERTS, most)}):
        ask = partial(bench.ask, tokens=_long(count))
        crowds = [(n, [ask(k, preference=c) for k in range(count)]) for n, c in codes.items()]
        lines[f"experts, {count} request{'s' * (count > 1)}"] = _points(bench, "wide", crowds)
    best = max((p["tokens_per_s"] for line in lines.values() for p in line), default=None)
    return [Figure("growth.most", best, "tokens a second, all together")], {"lines": lines}


def _long(requests: int) -> int:
    """Tokens such that the first request ends after the last has entered, one behind the other."""
    return min(STEPS_TO_ENTER * (requests - 1) + STEPS, MOST_TOKENS)


def _points(
    bench: BenchContext, kind: str, crowds: list[tuple[int, list[GenerationRequest]]]
) -> list[dict[str, float]]:
    """A line of the growth; without crowds whose rows do not fit at once."""
    points = []
    for experts, asks in crowds:
        tell(f"Growth: {len(asks)} requests, {experts} experts.")
        run: Timing = bench.call(kind, ours.decode, asks)
        if (step := run.together_ms) is not None:
            point = {"requests": len(asks), "experts": experts, "ms_per_step": step}
            points.append({**point, "tokens_per_s": 1000 * len(asks) / step})
    return points


def shared(bench: BenchContext) -> Found:
    """Speed beside a busy process a core over half of the quiet speed; then that on one core."""
    if not hasattr(os, "sched_setaffinity") or not bench.on_cpu:
        reason = "needs Linux" if bench.on_cpu else "the engine is on a GPU"
        return [Figure("shared", None, f"share of its fair share that it keeps: {reason}")], {}
    cores = sorted(os.sched_getaffinity(0))
    fair = {"busy": (0.5, f"beside {len(cores)} busy"), "one_core": (1 / len(cores), "there")}
    figures, data = [], dict[str, dict[str, float]]()
    for name, count in (("one", 1), ("sixteen", 16)):
        tell(f"Timing {count} beside busy neighbours.")
        asks, settle = bench.crowd(count), bench.options.settle
        runs = {"quiet": _settled(bench, "engine", asks)}
        with _neighbours(cores):
            runs["busy"] = _settled(bench, "engine", asks, settle)
        runs["quiet"] += _settled(bench, "engine", asks, settle)
        os.sched_setaffinity(0, cores[-1:])  # what is started now may run there only
        try:
            runs["one_core"] = _settled(bench, "one_core", asks)
        finally:
            os.sched_setaffinity(0, cores)
        seconds = spreads(runs, "seconds")
        data |= {f"{name} {key}": own for key, own in seconds.items()}
        for key, (share, what) in fair.items():
            kept = seconds["quiet"]["median"] / seconds[key]["median"] / share
            meaning = f"{what}: share of its fair share that it keeps, {count} at once"
            figures.append(Figure(f"shared.{key}_{name}", kept, meaning))
    return figures, {"seconds": data}


def _settled(
    bench: BenchContext, kind: str, asks: list[GenerationRequest], settle: int = 0
) -> list[Timing]:
    """The repeats, after one that does not count and as many as fill ``settle`` seconds."""
    begun, run = time.monotonic(), partial(bench.call, kind, ours.decode, asks)
    run()
    while time.monotonic() < begun + settle:
        run()
    return [run() for _ in range(bench.options.repeats)]


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
