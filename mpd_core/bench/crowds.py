"""Many requests: against Personalized Soup, and how a step grows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from mpd_core.bench.context import BenchContext
from mpd_core.bench.roofline import Rows
from mpd_core.bench.values import Ask, Figure, Found, Run, ratio, spread

SOUP = "soup"
REQUESTS = (1, 2, 4, 8, 16, 32, 64)
EXPERTS = (1, 2, 3, 4, 6, 8, 10, 12)
CROWD_OF_EXPERTS = 8
STEPS = 12
STEPS_TO_ENTER = 3
"""A request is prefilled in chunks, one between two steps."""
MOST_TOKENS = 256


def serve32(bench: BenchContext) -> Found:
    """Total time of a crowd: MPD over three ways to serve Personalized Soups."""
    asks, soups = (bench.crowd(bench.options.requests, method) for method in ("mpd", SOUP))
    meanings = {
        f"a{ending}": "MPD / soups request by request, transformers" + " in fp32" * fp32
        for fp32, ending in bench.peer_precisions.items()
    } | {
        "b": "MPD / soups grouped by preference, this engine",
        "c": "MPD / soups as stacked adapters, one batch, this engine",
    }
    runs = bench.take_turns(_contests(bench, asks, soups))
    seconds = {name: spread([run.seconds for run in some]) for name, some in runs.items()}
    figures = [
        Figure(f"serve32.{name}", ratio(seconds["mpd"], seconds[name]), meaning)
        for name, meaning in meanings.items()
    ]
    latency = {name: _latency(runs[name]) for name in ("mpd", "c")}
    for kind, what in (("first", "to the first token"), ("gap", "between tokens")):
        for key, share in (("p50", "median"), ("p95", "95%")):
            value = latency["mpd"][f"{kind}_{key}"]
            figures.append(Figure(f"serve32.{kind}_{key}", value, f"ms {what}, {share}"))
    crowds = {"mpd": asks, "c": soups}
    data = {
        "requests": len(asks),
        "preferences": len({ask.preference for ask in asks}),
        "seconds": seconds,
        "merging_s": {name: some[-1].uncounted for name, some in runs.items() if name[0] == "a"},
        "latency_ms": latency,
        "regime": {name: _regime(bench, crowds[name]) for name in latency},
    }
    return figures, data


def _contests(
    bench: BenchContext, asks: tuple[Ask, ...], soups: tuple[Ask, ...]
) -> Mapping[str, Callable[[], Run]]:
    engine, tokens = bench.get("engine").call, bench.options.tokens
    contests = {
        "mpd": partial(engine, "decode", asks, tokens),
        "b": partial(engine, "grouped", soups, tokens),
        "c": partial(engine, "decode", soups, tokens),
    }
    for fp32, ending in bench.peer_precisions.items():
        plain = bench.get("plain", fp32=fp32)
        if bench.mergeable:
            bench.check(f"soup a{ending}", plain, "cached", soups[0], rounded=not fp32)
        contests[f"a{ending}"] = partial(plain.call, "generate", soups, tokens)
    return contests


def _latency(runs: list[Run]) -> dict[str, float]:
    """The smallest values that at least half, and 95%, of all do not exceed."""
    kinds = {
        "first": [ms for run in runs for ms in run.first_ms],
        "gap": [ms for run in runs for ms in run.gaps_ms],
    }
    return {
        f"{kind}_p{percent}": float(np.percentile(values, percent, method="inverted_cdf"))
        for kind, values in kinds.items()
        for percent in (50, 95)
    }


def _regime(bench: BenchContext, asks: tuple[Ask, ...]) -> dict[str, Any]:
    """What binds a step of the full crowd, and how near it comes to its floor."""
    poles = {pole for ask in asks for pole in bench.pack.space.parse(ask.preference).poles}
    count, experts = len(asks), bench.experts
    # A soup's row adds up as many adapters as it has poles.
    rows = Rows(count, 0, len(poles), bench.context, mixed=experts)
    if asks[0].method != SOUP:
        rows = Rows(experts * count, count, len(poles) + 1, bench.context, texts=2 * count)
    least = bench.least(rows)
    point = step_of(bench, "engine", asks)
    return {key: least[key] for key in ("rows", "bound_by", "floor_ms")} | {"step_ms": point}


def step_of(bench: BenchContext, kind: str, asks: tuple[Ask, ...]) -> float | None:
    """Milliseconds a step while all decode; None where their rows do not fit at once."""
    # Requests enter one after the other: the first must not end before the last has entered.
    tokens = min(STEPS_TO_ENTER * (len(asks) - 1) + STEPS, MOST_TOKENS)
    run: Run = bench.get(kind).call("decode", asks, tokens)
    return run.together_ms


def growth(bench: BenchContext) -> Found:
    """Milliseconds a step and tokens a second, over requests and over experts."""
    most, widest, experts = bench.options.largest, bench.options.widest, bench.experts
    counts = [count for count in REQUESTS if count <= most]
    crowds = [(n, experts, bench.crowd(n, "mpd")) for n in counts]
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
    bench: BenchContext, kind: str, crowds: list[tuple[int, int, tuple[Ask, ...]]]
) -> list[dict[str, float]]:
    """A line of x, experts and requests; without those whose rows do not fit at once."""
    points = []
    for x, experts, asks in crowds:
        bench.tell(f"Growth: {len(asks)} requests, {experts} experts.")
        if (step := step_of(bench, kind, asks)) is not None:
            point = {"x": x, "requests": len(asks), "experts": experts, "ms_per_step": step}
            points.append({**point, "tokens_per_s": 1000 * len(asks) / step})
    return points
