"""Shared cores: what the engine keeps of its fair share beside busy neighbours, and on one core."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mpd_core.bench.context import BenchContext
from mpd_core.bench.values import Ask, Figure, Found, Run, spread

VISITORS = {"one": 1, "sixteen": 16}
BUSY = """
import os, sys
os.sched_setaffinity(0, {int(sys.argv[1])})
while os.getppid() == int(sys.argv[2]):
    for _ in range(10**6):
        pass
"""
"""A process that keeps one core busy for as long as the bench lives."""


def shared(bench: BenchContext) -> Found:
    """Speed beside a busy process a core over half of the quiet speed; then that on one core."""
    if not hasattr(os, "sched_setaffinity") or not bench.on_cpu:
        reason = "needs Linux" if bench.on_cpu else "the engine is on a GPU"
        return [Figure("shared", None, f"share of its fair share that it keeps: {reason}")], {}
    cores = sorted(os.sched_getaffinity(0))
    figures, data = [], dict[str, dict[str, float]]()
    for name, count in VISITORS.items():
        asks = bench.crowd(count, "mpd")
        bench.tell(f"Timing {count} beside busy neighbours.")
        quiet = _timed(bench, "engine", asks)
        with _neighbours(cores):
            busy = _timed(bench, "engine", asks, settle=bench.options.settle)
        quiet += _timed(bench, "engine", asks, settle=bench.options.settle)
        with _affinity(set(cores[-1:])):  # what is started now may run there only
            alone = _timed(bench, "one_core", asks)
        every = {"quiet": quiet, "busy": busy, "one_core": alone}
        seconds = {key: spread([run.seconds for run in runs]) for key, runs in every.items()}
        data |= {f"{name} {key}": found for key, found in seconds.items()}
        texts = (("busy", 0.5, f"beside {len(cores)} busy"), ("one_core", 1 / len(cores), "there"))
        for key, fair, what in texts:
            share = seconds["quiet"]["median"] / seconds[key]["median"] / fair
            meaning = f"{what}: share of its fair share that it keeps, {count} at once"
            figures.append(Figure(f"shared.{key}_{name}", share, meaning))
    return figures, {"seconds": data}


def _timed(bench: BenchContext, kind: str, asks: tuple[Ask, ...], settle: int = 0) -> list[Run]:
    """Repeats after a run that does not count, or after as many as fill the time to settle."""
    decode, tokens, begun = bench.get(kind).call, bench.options.tokens, time.monotonic()
    decode("decode", asks, tokens)
    while time.monotonic() < begun + settle:
        decode("decode", asks, tokens)
    return [decode("decode", asks, tokens) for _ in range(bench.options.repeats)]


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


@contextmanager
def _affinity(cores: set[int]) -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
