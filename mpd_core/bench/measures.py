"""One request: MPD beside one plain model and beside other ways to run several experts; bytes."""

from __future__ import annotations

from itertools import takewhile
from typing import Any

import torch
from torch.utils.benchmark import Timer

from mpd_core.bench import llama_cpp, ours, peers
from mpd_core.bench.context import BenchContext, memory
from mpd_core.bench.values import Figure, Found, ratios, spreads
from mpd_core.engine import Engine
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


def tax(bench: BenchContext) -> Found:
    """What MPD costs over one plain model; that one, too, before any other process has started."""
    one = [bench.ask(method="vanilla")]
    plain = "plain_fp32" if bench.on_cpu else "plain"
    generate = (plain, peers.generate, one)
    alone = bench.take_turns({"alone": generate})
    bench.check(plain, peers.cached, one[0], exact=False)
    contests = {
        "mpd": ("engine", ours.decode, [bench.ask()]),
        "vanilla": ("engine", ours.decode, one),
        "generate": generate,
    }
    ms = spreads(alone | bench.take_turns(contests), "ms_per_token")
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
    contests: dict[str, tuple[Any, ...]] = {"mpd": ("engine", ours.decode, [ask])}
    figures = {}
    for name, (kind, scheme, meaning) in SCHEMES[measure].items():
        if kind == "peft" or bench.mergeable:
            bench.check(kind, scheme, ask, exact=kind == "peft")
            contests[name] = kind, peers.decode, scheme, ask
            figures[f"{measure}.{name}"] = name, "mpd", f"{meaning} / MPD"
    ms = spreads(bench.take_turns(contests), "ms_per_token")
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
    one, count = [bench.ask(method="vanilla")], bench.options.requests
    plain, mpd, soup = (bench.crowd(count, method) for method in ("vanilla", "mpd", "soup"))
    try:
        bench.call("llama", llama_cpp.decode, one)
    except MPDError as reason:
        return [Figure("vs_llama", None, f"this engine / llama.cpp: {reason}")], {}
    runs = bench.take_turns(
        {
            "plain": ("engine", ours.decode, one),
            "mpd": ("engine", ours.decode, [bench.ask()]),
            "llama": ("llama", llama_cpp.decode, one),
            "crowd": ("engine", ours.decode, plain),
            "mpd_crowd": ("engine", ours.decode, mpd),
            "slots": ("llama", llama_cpp.decode, plain, count),
            "soups": ("llama", llama_cpp.decode, soup),
        }
    )
    figures, data = [], dict[str, Any]()
    for name, timed, over, under, meaning in LLAMA:
        times = spreads({contest: runs[contest] for contest in (over, under)}, timed)
        data.setdefault(timed, {}).update(times)
        figures += ratios({f"vs_llama.{name}": (over, under, meaning)}, times)
    for method in ("vanilla", "soup"):
        ask = bench.ask(method=method)
        theirs = "".join(bench.call("llama", llama_cpp.decode, [ask]).tokens[0])
        both = bench.call("engine", Engine.generate, ask).text, theirs
        alike = [*takewhile(lambda pair: pair[0] == pair[1], zip(*both, strict=False))]
        share = len(alike) / max(*map(len, both), 1)
        meaning = f"greedy text up to the first difference: share of it, {method}"
        figures.append(Figure(f"vs_llama.same_{method}", share, meaning))
    return figures, data


def weights(bench: BenchContext) -> Found:
    """Bytes of the weights: one base with adapters against one model, and against n models."""
    own: dict[str, Any] = bench.call("engine", memory)
    base, adapters = own["weights"]["base"], own["weights"]["adapters"]
    loaded, data = len(bench.pack.space.poles) + 1, {"engine": own}
    files = sum(f.stat().st_size for f in bench.pack.folder.glob("*/adapter_model.safetensors"))
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
    contests = {
        "one": ("engine", ours.decode, [bench.ask()]),
        "vanilla": ("engine", ours.decode, [bench.ask(method="vanilla")]),
    }
    ms = spreads(bench.take_turns(contests), "ms_per_token")
    figures, data = [], dict[str, Any](bandwidth_gb_s=rate / 1e9)
    for name, read, what in (("one", base + used, "experts + PCM"), ("vanilla", base, "plain")):
        least, step = 1000 * read / rate, ms[name]["median"]
        data[name] = {"bytes": read, "floor_ms": least, "step_ms": step}
        meaning = f"weights' bytes over bandwidth / step, one request, {what}"
        figures.append(Figure(f"floor.{name}", least / step, meaning))
    return figures, data


@torch.inference_mode()
def bandwidth(device: str) -> float:
    """Bytes a second that memory delivers to a large sum."""
    size = READ_BYTES[device]
    source = {"source": torch.ones(size // 4, device=device)}
    timer = Timer("source.sum()", globals=source, num_threads=torch.get_num_threads())
    # The fastest trial: a lower bound of time must not be flattered by noise.
    return size / float(min(timer.blocked_autorange(min_run_time=MEASURED_S).times))
