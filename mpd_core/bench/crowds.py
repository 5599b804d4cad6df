"""Many requests: against Personalized Soup, and how a step grows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from mpd_core.bench.context import BenchContext, ratio
from mpd_core.bench.measures import spreads
from mpd_core.bench.roofline import Rows, step_cost
from mpd_core.bench.values import Ask, Figure, Run, Section, Spread

SOUP = "soup"
REQUESTS = (1, 2, 4, 8, 16, 32, 64)
EXPERTS = (1, 2, 3, 4, 6, 8, 10, 12)
CROWD_OF_EXPERTS = 8
STEPS = 12
STEPS_TO_ENTER = 3
"""A request is prefilled in chunks, one between two steps."""
MOST_TOKENS = 256
SKIPPED = "this engine has no method 'soup'"


def serve32(bench: BenchContext) -> Section:
    """Total time of a crowd: MPD over three ways to serve Personalized Soups."""
    count, tokens, engine = bench.options.requests, bench.options.tokens, bench.get("engine")
    asks, soups = bench.crowd(count, "mpd"), bench.crowd(count, SOUP)
    merging: dict[str, float] = {}
    contests = {"mpd": lambda: engine.call("decode", asks, tokens)}
    runs = bench.take_turns({**contests, **_opponents(bench, soups, merging)})
    seconds = {name: Spread.of([run.seconds for run in some]) for name, some in runs.items()}
    figures = [
        Figure(f"serve32.{name}", ratio(seconds["mpd"], seconds[name]), meaning)
        if name in seconds
        else Figure(f"serve32.{name}", None, meaning, SKIPPED)
        for name, meaning in _meanings(bench).items()
    ]
    crowds = {name: crowd for name, crowd in (("mpd", asks), ("c", soups)) if name in runs}
    latency = {name: _latency(runs[name]) for name in crowds}
    data = {
        "requests": count,
        "preferences": len({ask.preference for ask in asks}),
        "seconds": spreads(seconds),
        "merging_s": merging,
        "latency_ms": latency,
        "regime": {name: _regime(bench, crowd) for name, crowd in crowds.items()},
    }
    return Section((*figures, *_latency_figures(latency["mpd"])), data)


def _opponents(
    bench: BenchContext, soups: tuple[Ask, ...], merging: dict[str, float]
) -> dict[str, Callable[[], Run]]:
    """Ways to serve soups; ``merging`` receives the seconds that (a) spends on making them."""
    engine, tokens, ways = bench.get("engine"), bench.options.tokens, dict[str, Any]()
    has_soup = SOUP in bench.info["methods"]
    for fp32 in bench.peer_precisions:
        label = "a.fp32" if fp32 else "a"
        if has_soup and bench.mergeable:
            peer = bench.get("plain", fp32=fp32)
            bench.check(f"soup {label}", peer, soups[0], rounded=not fp32)
        ways[label] = _soups_in_turn(bench, fp32, soups, merging, label)
    if has_soup:
        ways["b"] = lambda: engine.call("grouped", soups, tokens)
        ways["c"] = lambda: engine.call("decode", soups, tokens)
    return ways


def _soups_in_turn(
    bench: BenchContext, fp32: bool, asks: tuple[Ask, ...], merging: dict[str, float], label: str
) -> Callable[[], Run]:
    def run() -> Run:
        result, merging[label] = bench.get("plain", fp32=fp32).call(
            "soup", asks, bench.options.tokens
        )
        done: Run = result
        return done

    return run


def _meanings(bench: BenchContext) -> dict[str, str]:
    meanings = {"a": "MPD / soups request by request, transformers"}
    if len(bench.peer_precisions) > 1:
        meanings["a.fp32"] = "MPD / soups request by request, transformers in fp32"
    meanings["b"] = "MPD / soups grouped by preference, this engine"
    meanings["c"] = "MPD / soups as stacked adapters, one batch, this engine"
    return meanings


def _latency(runs: list[Run]) -> dict[str, float]:
    first = [ms for run in runs for ms in run.first_ms]
    gaps = [ms for run in runs for ms in run.gaps_ms]
    return {
        "first_p50": _quantile(first, 0.5),
        "first_p95": _quantile(first, 0.95),
        "gap_p50": _quantile(gaps, 0.5),
        "gap_p95": _quantile(gaps, 0.95),
    }


def _latency_figures(latency: dict[str, float]) -> list[Figure]:
    meanings = {
        "first_p50": "ms to the first token, median",
        "first_p95": "ms to the first token, 95%",
        "gap_p50": "ms between tokens, median",
        "gap_p95": "ms between tokens, 95%",
    }
    return [Figure(f"serve32.{key}", latency[key], text) for key, text in meanings.items()]


def _quantile(values: list[float], share: float) -> float:
    """The smallest value that at least this share of all does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _regime(bench: BenchContext, asks: tuple[Ask, ...]) -> dict[str, Any]:
    """What binds a step of the full crowd, and how near it comes to its floor."""
    kinds = {ask.preference for ask in asks}
    poles = {pole for kind in kinds for pole in bench.pack.space.parse(kind).poles}
    experts = len(bench.pack.space.dimensions)
    # A soup's row adds up as many adapters as it has poles.
    rows = Rows(len(asks), 0, len(poles), bench.context, mixed=experts)
    if asks[0].method != SOUP:
        texts = 2 * len(asks)
        rows = Rows(experts * len(asks), len(asks), len(poles) + 1, bench.context, texts=texts)
    cost = step_cost(bench.shapes, rows, bench.precision, cpu=bench.on_cpu)
    least, binds = cost.roofline(bench.bandwidth(), bench.product_rate(rows.all))
    point = step_of(bench, "engine", asks)
    return {"rows": rows.all, "bound_by": binds, "floor_ms": least, "step_ms": point}


def step_of(bench: BenchContext, kind: str, asks: tuple[Ask, ...]) -> float | None:
    """Milliseconds a step while all decode; None where their rows do not fit at once."""
    # Requests enter one after the other: the first must not end before the last has entered.
    tokens = min(STEPS_TO_ENTER * (len(asks) - 1) + STEPS, MOST_TOKENS)
    run: Run = bench.get(kind).call("decode", asks, tokens)
    return run.together_ms


def growth(bench: BenchContext) -> Section:
    """Milliseconds a step and tokens a second, over requests and over experts."""
    experts = len(bench.pack.space.dimensions)
    requests = [
        _point(bench, "engine", bench.crowd(count, "mpd"), experts)
        for count in REQUESTS
        if count <= bench.options.largest
    ]
    lines = {f"requests, {experts} experts + PCM": [p for p in requests if p]}
    bench.field.keep(("machine",))
    for crowd in sorted({1, min(CROWD_OF_EXPERTS, bench.options.largest)}):
        points = [_wide_point(bench, n, crowd) for n in EXPERTS if n <= bench.options.widest]
        lines[f"experts, {crowd} request{'s' * (crowd > 1)}"] = [p for p in points if p]
    best = max((p["tokens_per_s"] for line in lines.values() for p in line), default=None)
    meaning = "most tokens a second, all requests together"
    return Section((Figure("growth.most", best, meaning),), {"lines": lines})


def _wide_point(bench: BenchContext, experts: int, crowd: int) -> dict[str, float] | None:
    code = "A" * experts + "-" * (bench.options.widest - experts)
    asks = tuple(bench.ask(k, preference=code) for k in range(crowd))
    point = _point(bench, "wide", asks, experts)
    return point and {**point, "x": experts}


def _point(
    bench: BenchContext, kind: str, asks: tuple[Ask, ...], experts: int
) -> dict[str, float] | None:
    """One crowd; None where its rows do not fit into the engine at once."""
    bench.tell(f"Growth: {len(asks)} requests, {experts} experts.")
    step = step_of(bench, kind, asks)
    if step is None:
        return None
    return {
        "x": len(asks),
        "requests": len(asks),
        "experts": experts,
        "ms_per_step": step,
        "tokens_per_s": 1000 * len(asks) / step,
    }
