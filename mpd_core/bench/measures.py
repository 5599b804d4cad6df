"""One request: MPD beside one plain model and beside other ways to run several experts; bytes."""

from __future__ import annotations

from functools import partial
from itertools import takewhile
from typing import Any

from mpd_core.bench import llama_cpp, machine, ours, peers
from mpd_core.bench.context import BenchContext, memory
from mpd_core.bench.values import Figure, Found, Timing, ratios, spread
from mpd_core.errors import MPDError

NOCACHE_TOKENS = 8
SCHEMES: dict[str, dict[str, tuple[str, Any, str]]] = {
    "vs_mod": {
        "loop": ("peft", peers.loop, "set_adapter loop"),
        "separate": ("separate", peers.loop, "separate merged models in sequence"),
    },
    "vs_peft": {"batch": ("peft", peers.batch, "PEFT mixed batch")},
    "vs_nocache": {"nocache": ("peft", peers.nocache, "no cache")},
}
"""Other ways to run several experts, as peers have them."""


def per_token(runs: dict[str, list[Timing]]) -> dict[str, dict[str, float]]:
    """Milliseconds a token while decoding, over the repeats."""
    return {name: spread([run.ms_per_token for run in some]) for name, some in runs.items()}


def tax(bench: BenchContext) -> Found:
    """What MPD costs over one plain model; that one, too, before any other process has started."""
    one = [bench.ask(method="vanilla")]
    plain = "plain_fp32" if bench.on_cpu else "plain"
    generate = partial(bench.call, plain, peers.generate, one)
    alone = bench.take_turns({"alone": generate})
    bench.check(plain, peers.cached, one[0], exact=False)
    contests = {
        "mpd": partial(bench.call, "engine", ours.decode, [bench.ask()]),
        "vanilla": partial(bench.call, "engine", ours.decode, one),
        "generate": generate,
    }
    ms = per_token(alone | bench.take_turns(contests))
    figures = {
        "tax.a": ("mpd", "vanilla", "MPD / one plain model, this engine"),
        "tax.b": ("mpd", "generate", "MPD / generate" + " in fp32" * bench.on_cpu),
        "tax.fair": ("generate", "alone", "generate among the others / alone: 1 is fair"),
    }
    return ratios(figures, ms), {"ms_per_token": ms}


def against(measure: str, bench: BenchContext) -> Found:
    """MPD against the schemes of a measure, in the engine's precision."""
    tokens = bench.options.tokens
    ask = bench.ask(tokens=min(NOCACHE_TOKENS, tokens) if measure == "vs_nocache" else tokens)
    contests = {"mpd": partial(bench.call, "engine", ours.decode, [ask])}
    figures = {}
    for name, (kind, scheme, meaning) in SCHEMES[measure].items():
        if kind == "peft" or bench.mergeable:
            bench.check(kind, scheme, ask, exact=kind == "peft")
            contests[name] = partial(bench.call, kind, peers.decode, scheme, ask)
            figures[f"{measure}.{name}"] = name, "mpd", f"{meaning} / MPD"
    ms = per_token(bench.take_turns(contests))
    return ratios(figures, ms), {"ms_per_token": ms}


LLAMA = (
    ("one", "ms_per_token", "plain", "llama", "one plain model, this engine / llama.cpp"),
    ("mpd", "ms_per_token", "mpd", "llama", "MPD / one plain model of llama.cpp"),
    ("first", "first_ms", "plain", "llama", "first token, one plain model / llama.cpp"),
    ("first_mpd", "first_ms", "mpd", "plain", "first token, MPD / one plain model, this engine"),
    ("crowd", "seconds", "crowd", "slots", "plain requests at once / llama.cpp's slots"),
    ("soups", "seconds", "mpd_crowd", "soups", "MPD at once / soups one by one, llama.cpp"),
)
"""Figures of ``vs_llama``: ratios of two contests in what is timed."""


def vs_llama(bench: BenchContext) -> Found:
    """Against llama.cpp on the very blocks that the base came in: plain, in slots, and soups."""
    one = [bench.ask(method="vanilla")]
    engine, llama = partial(bench.call, "engine"), partial(bench.call, "llama")
    try:
        llama(llama_cpp.in_turn, one)
    except MPDError as reason:
        return [Figure("vs_llama", None, f"this engine / llama.cpp: {reason}")], {}
    plain, mpd, soup = (bench.crowd(bench.options.requests, m) for m in ("vanilla", "mpd", "soup"))
    single = bench.take_turns(
        {
            "plain": partial(engine, ours.decode, one),
            "mpd": partial(engine, ours.decode, [bench.ask()]),
            "llama": partial(llama, llama_cpp.in_turn, one),
        }
    )
    many = bench.take_turns(
        {
            "crowd": partial(engine, ours.decode, plain),
            "mpd_crowd": partial(engine, ours.decode, mpd),
            "slots": partial(llama, llama_cpp.together, plain),
            "soups": partial(llama, llama_cpp.in_turn, soup),
        }
    )
    first = {n: spread([1000 * run.stamps[0][0] for run in some]) for n, some in single.items()}
    seconds = {n: spread([run.seconds for run in some]) for n, some in many.items()}
    data: dict[str, Any] = {"ms_per_token": per_token(single), "first_ms": first}
    data["seconds"] = seconds
    figures = [
        figure
        for name, timed, over, under, meaning in LLAMA
        for figure in ratios({f"vs_llama.{name}": (over, under, meaning)}, data[timed])
    ]
    for method in ("vanilla", "soup"):
        ask = bench.ask(method=method)
        texts = engine(ours.text, ask), "".join(llama(llama_cpp.in_turn, [ask]).tokens[0])
        data[f"same_{method}"] = texts
        same = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(*texts, strict=False))))
        meaning = f"greedy text up to the first difference: share of it, {method}"
        share = same / max(*map(len, texts), 1)
        figures.append(Figure(f"vs_llama.same_{method}", share, meaning))
    return figures, data


def weights(bench: BenchContext) -> Found:
    """Bytes of the weights: one base with adapters against one model, and against n models."""
    own: dict[str, Any] = bench.call("engine", memory)
    base, adapters = own["weights"]["base"], own["weights"]["adapters"]
    loaded = len(bench.pack.space.poles) + 1
    files = sum(f.stat().st_size for f in bench.pack.folder.glob("*/adapter_model.safetensors"))
    data: dict[str, Any] = {"adapters_loaded": loaded, "adapter_files": files, "engine": own}
    figures = [
        Figure("memory.weights", (base + adapters) / base, f"base + {loaded} adapters / one model"),
        Figure("memory.least", (base + files) / base, f"the same with the {loaded} files' bytes"),
        Figure("memory.peak_mb", own["peak"] / 2**20, "MiB at most of the engine's process"),
        Figure("memory.resident_mb", own["resident"] / 2**20, "MiB now of the engine's process"),
    ]
    if bench.mergeable:
        data["separate"] = theirs = bench.call("separate", memory)
        models, count = theirs["weights"]["base"], bench.experts + 1
        figures += [
            Figure("memory.models", models / base, f"{count} separate models / one model"),
            Figure("memory.models_peak_mb", theirs["peak"] / 2**20, "MiB at most of their process"),
        ]
    return figures, data


def floor(bench: BenchContext) -> Found:
    """Share of a measured step that reading its weights once would take: 1 is perfect."""
    bandwidth, held = machine.bandwidth(bench.spec.device), bench.call("engine", memory)
    base, adapters = held["weights"]["base"], held["weights"]["adapters"]
    used = adapters * (bench.experts + 1) / (len(bench.pack.space.poles) + 1)
    cases = {"one": ("mpd", base + used, "experts + PCM"), "vanilla": ("vanilla", base, "plain")}
    figures, data = [], dict[str, Any](bandwidth_gb_s=bandwidth / 1e9)
    for name, (method, read, what) in cases.items():
        run = partial(bench.call, "engine", ours.decode, [bench.ask(method=method)])
        step = per_token(bench.take_turns({"step": run}))["step"]["median"]
        least = 1000 * read / bandwidth
        data[name] = {"bytes": read, "floor_ms": least, "step_ms": step}
        meaning = f"weights' bytes over bandwidth / step, one request, {what}"
        figures.append(Figure(f"floor.{name}", least / step, meaning))
    return figures, data
