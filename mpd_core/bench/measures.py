"""One request: MPD beside one plain model and beside other ways to run several experts; bytes."""

from __future__ import annotations

from functools import partial
from itertools import takewhile
from typing import Any

import torch
from torch.utils.benchmark import Timer

from mpd_core.bench import llama_cpp, ours, peers
from mpd_core.bench.context import BenchContext, memory
from mpd_core.bench.values import Figure, Found, Timing, ratios, spread
from mpd_core.errors import MPDError

NOCACHE_TOKENS = 8
READ_BYTES = {"cpu": 2**28, "cuda": 2**32}
"""Larger than a last cache by far."""
MEASURED_S = 0.5
"""Of trials, however many calls each of them needs."""
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
    single = bench.take_turns(
        {
            "plain": partial(engine, ours.decode, one),
            "mpd": partial(engine, ours.decode, [bench.ask()]),
            "llama": partial(llama, llama_cpp.in_turn, one),
        }
    )
    first = {n: spread([1000 * run.stamps[0][0] for run in some]) for n, some in single.items()}
    data = {"ms_per_token": per_token(single), "first_ms": first, "seconds": _llama_crowds(bench)}
    figures = [
        figure
        for name, timed, over, under, meaning in LLAMA
        for figure in ratios({f"vs_llama.{name}": (over, under, meaning)}, data[timed])
    ]
    texts = {}
    for method in ("vanilla", "soup"):
        ask = bench.ask(method=method)
        both = engine(ours.text, ask), "".join(llama(llama_cpp.in_turn, [ask]).tokens[0])
        same = sum(1 for _ in takewhile(lambda ab: ab[0] == ab[1], zip(*both, strict=False)))
        meaning = f"greedy text up to the first difference: share of it, {method}"
        share = same / max(*map(len, both), 1)
        figures.append(Figure(f"vs_llama.same_{method}", share, meaning))
        texts[f"same_{method}"] = both
    return figures, {**data, **texts}


def _llama_crowds(bench: BenchContext) -> dict[str, dict[str, float]]:
    plain, mpd, soup = (bench.crowd(bench.options.requests, m) for m in ("vanilla", "mpd", "soup"))
    contests = {
        "crowd": partial(bench.call, "engine", ours.decode, plain),
        "mpd_crowd": partial(bench.call, "engine", ours.decode, mpd),
        "slots": partial(bench.call, "llama", llama_cpp.together, plain),
        "soups": partial(bench.call, "llama", llama_cpp.in_turn, soup),
    }
    runs = bench.take_turns(contests)
    return {name: spread([run.seconds for run in some]) for name, some in runs.items()}


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
    rate, held = bandwidth(bench.spec.device), bench.call("engine", memory)
    base, adapters = held["weights"]["base"], held["weights"]["adapters"]
    used = adapters * (bench.experts + 1) / (len(bench.pack.space.poles) + 1)
    cases = {"one": ("mpd", base + used, "experts + PCM"), "vanilla": ("vanilla", base, "plain")}
    figures, data = [], dict[str, Any](bandwidth_gb_s=rate / 1e9)
    for name, (method, read, what) in cases.items():
        run = partial(bench.call, "engine", ours.decode, [bench.ask(method=method)])
        step = per_token(bench.take_turns({"step": run}))["step"]["median"]
        least = 1000 * read / rate
        data[name] = {"bytes": read, "floor_ms": least, "step_ms": step}
        meaning = f"weights' bytes over bandwidth / step, one request, {what}"
        figures.append(Figure(f"floor.{name}", least / step, meaning))
    return figures, data


@torch.inference_mode()
def bandwidth(device: str) -> float:
    """Bytes a second that memory delivers: the better of a large sum and a large copy."""
    size = READ_BYTES[device]
    source = torch.ones(size // 4, device=device)
    rates = []
    for read, statement in ((size, "source.sum()"), (2 * size, "target.copy_(source)")):
        names = {"source": source, "target": torch.zeros_like(source)}
        timer = Timer(statement, globals=names, num_threads=torch.get_num_threads())
        # The fastest trial: a lower bound of time must not be flattered by noise.
        rates.append(read / min(timer.blocked_autorange(min_run_time=MEASURED_S).times))
    return float(max(rates))
