"""One request: MPD beside one plain model and beside other ways to run several experts; bytes."""

from __future__ import annotations

from functools import partial
from typing import Any

from mpd_core.bench.context import BenchContext
from mpd_core.bench.llama_cpp import why_not
from mpd_core.bench.roofline import Rows
from mpd_core.bench.values import Figure, Found, Run, ratio, spread
from mpd_core.packs import FolderSource

NOCACHE_TOKENS = 8
PROFILED_TOKENS = 16
SCHEMES = {
    "vs_mod": {
        "loop": "set_adapter loop / MPD",
        "separate": "separate merged models in sequence / MPD",
    },
    "vs_peft": {"batch": "PEFT mixed batch / MPD"},
    "vs_nocache": {"nocache": "no cache / MPD"},
}
"""Other ways to run several experts, as peers have them."""


def fairness(bench: BenchContext) -> Found:
    """A plain model before the others have started, and among them."""
    asks, tokens = (bench.ask(method="vanilla"),), bench.options.tokens

    run = partial(bench.get("plain", fp32=bench.on_cpu).call, "generate", asks, tokens)
    alone = per_token(bench.take_turns({"alone": run}))
    bench.get("engine").call("decode", (bench.ask(),), tokens)
    ms = alone | per_token(bench.take_turns({"among": run}))
    meaning = "a plain model among the others / alone: 1 is fair"
    figure = Figure("fairness", ratio(ms["among"], ms["alone"]), meaning)
    return [figure], {"ms_per_token": ms}


def tax(bench: BenchContext) -> Found:
    """What MPD costs over one plain model."""
    vanilla, tokens = bench.ask(method="vanilla"), bench.options.tokens
    engine, plain = bench.get("engine").call, bench.get("plain", fp32=bench.on_cpu)
    bench.check("generate", plain, "cached", vanilla)
    runs = bench.take_turns(
        {
            "mpd": partial(engine, "decode", (bench.ask(),), tokens),
            "vanilla": partial(engine, "decode", (vanilla,), tokens),
            "generate": partial(plain.call, "generate", (vanilla,), tokens),
        }
    )
    ms, precision = per_token(runs), " in fp32" if bench.on_cpu else ""
    figures = [
        Figure("tax.a", ratio(ms["mpd"], ms["vanilla"]), "MPD / one plain model, this engine"),
        Figure("tax.b", ratio(ms["mpd"], ms["generate"]), f"MPD / generate{precision}"),
    ]
    return figures, {"ms_per_token": ms}


LLAMA = {
    "one": ("ms_per_token", "plain", "llama", "one plain model, this engine / llama.cpp"),
    "mpd": ("ms_per_token", "mpd", "llama", "MPD / one plain model of llama.cpp"),
    "first": ("first_ms", "plain", "llama", "first token, one plain model / llama.cpp"),
    "first_mpd": ("first_ms", "mpd", "plain", "first token, MPD / one plain model, this engine"),
    "crowd": ("seconds", "crowd", "llama_crowd", "plain requests at once / llama.cpp's slots"),
    "soups": ("seconds", "mpd_crowd", "llama_soups", "MPD at once / soups one by one, llama.cpp"),
}
"""Figures of ``vs_llama``: what is compared, of which two contests, and what it is."""


def vs_llama(bench: BenchContext) -> Found:
    """Against llama.cpp on the very blocks that the base came in: plain, in slots, and soups."""
    what = "greedy text up to the first difference"
    same = {f"same_{method}": f"{what}, {method}" for method in ("vanilla", "soup")}
    source = bench.pack.spec.base.source
    assert isinstance(source, FolderSource)  # the bench wrote it
    reason = why_not(bench.pack.path(source.folder)) if bench.on_cpu else "it runs on the CPU here"
    if reason:
        meanings = {name: meaning for name, (*_, meaning) in LLAMA.items()} | same
        return [Figure(f"vs_llama.{n}", None, f"{m}: {reason}") for n, m in meanings.items()], {}
    engine, llama, tokens = bench.get("engine").call, bench.get("llama").call, bench.options.tokens
    one, count = bench.ask(method="vanilla"), bench.options.requests
    runs = bench.take_turns(
        {
            "plain": partial(engine, "decode", (one,), tokens),
            "mpd": partial(engine, "decode", (bench.ask(),), tokens),
            "llama": partial(llama, "in_turn", (one,), tokens),
            "crowd": partial(engine, "decode", bench.crowd(count, "vanilla"), tokens),
            "mpd_crowd": partial(engine, "decode", bench.crowd(count, "mpd"), tokens),
            "llama_crowd": partial(llama, "together", bench.crowd(count, "vanilla"), tokens),
            "llama_soups": partial(llama, "in_turn", bench.crowd(count, "soup"), tokens),
        }
    )
    single = {name: runs.pop(name) for name in ("plain", "mpd", "llama")}
    data: dict[str, Any] = {
        "ms_per_token": per_token(single),
        "first_ms": {n: spread([run.first_ms[0] for run in some]) for n, some in single.items()},
        "seconds": {n: spread([run.seconds for run in some]) for n, some in runs.items()},
    }
    figures = [
        Figure(f"vs_llama.{name}", ratio(data[kind][over], data[kind][under]), meaning)
        for name, (kind, over, under, meaning) in LLAMA.items()
    ]
    for name, meaning in same.items():
        ask = bench.ask(method=name.removeprefix("same_"))
        texts = engine("text", ask, tokens), llama("text", ask, tokens)
        data[name] = texts
        figures.append(Figure(f"vs_llama.{name}", _same(*texts), f"{meaning}: share of it"))
    return figures, data


def _same(ours: str, theirs: str) -> float:
    """Share of a text before its first difference from another."""
    pairs = zip(ours, theirs, strict=False)
    alike = next((k for k, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(theirs)))
    return alike / max(len(ours), len(theirs), 1)


def against(measure: str, bench: BenchContext) -> Found:
    """MPD against the schemes of a measure, in the engine's precision and in plain fp32."""
    most = NOCACHE_TOKENS if measure == "vs_nocache" else bench.options.tokens
    ask, tokens, meanings = bench.ask(), min(most, bench.options.tokens), dict[str, str]()
    contests = {"mpd": partial(bench.get("engine").call, "decode", (ask,), tokens)}
    for fp32, ending in bench.peer_precisions.items():
        for scheme, meaning in SCHEMES[measure].items():
            merged = scheme == "separate"
            if merged and (fp32 or not bench.mergeable):
                continue  # in fp32 as the loop, without the loop's overhead; once is enough
            peer, label = bench.get("separate" if merged else "peft", fp32=fp32), scheme + ending
            bench.check(label, peer, scheme, ask, rounded=merged)
            contests[label] = partial(peer.call, "decode", scheme, (ask,), tokens)
            meanings[label] = meaning + (", peer in fp32" if fp32 else "")
    ms = per_token(bench.take_turns(contests))
    figures = [
        Figure(f"{measure}.{label}", ratio(ms[label], ms["mpd"]), meaning)
        for label, meaning in meanings.items()
    ]
    return figures, {"ms_per_token": ms}


def per_token(runs: dict[str, list[Run]]) -> dict[str, dict[str, float]]:
    """Milliseconds a token while decoding, over the repeats."""
    return {name: spread([run.ms_per_token for run in some]) for name, some in runs.items()}


def memory(bench: BenchContext) -> Found:
    """Bytes of the weights: one base with adapters against one model, and against n models."""
    ours: dict[str, Any] = bench.get("engine").call("memory")
    base, adapters = ours["weights"]["base"], ours["weights"]["adapters"]
    loaded = len(bench.pack.space.poles) + 1
    files = sum(f.stat().st_size for f in bench.pack.folder.glob("*/adapter_model.safetensors"))
    data: dict[str, Any] = {"adapters_loaded": loaded, "adapter_files": files, "engine": ours}
    figures = [
        Figure("memory.weights", (base + adapters) / base, f"base + {loaded} adapters / one model"),
        Figure("memory.least", (base + files) / base, f"the same with the {loaded} files' bytes"),
        Figure("memory.peak_mb", ours["peak"] / 2**20, "MiB at most of the engine's process"),
        Figure("memory.resident_mb", ours["resident"] / 2**20, "MiB now of the engine's process"),
    ]
    if bench.mergeable:
        data["separate"] = peers = bench.get("separate").call("memory")
        models, count = peers["weights"]["base"], bench.experts + 1
        figures += [
            Figure("memory.models", models / base, f"{count} separate models / one model"),
            Figure("memory.models_peak_mb", peers["peak"] / 2**20, "MiB at most of their process"),
        ]
    return figures, data


def floor(bench: BenchContext) -> Found:
    """Share of a measured step that bytes or arithmetic alone would take: 1 is perfect."""
    n, tokens, engine = bench.experts, bench.options.tokens, bench.get("engine").call
    cases = {
        "one": ("mpd", Rows(n, 1, n + 1, bench.context, texts=2), "experts + PCM"),
        "vanilla": ("vanilla", Rows(1, context=bench.context), "one plain model"),
    }
    figures, data = [], dict[str, Any]()
    for name, (method, rows, what) in cases.items():
        run = partial(engine, "decode", (bench.ask(method=method),), tokens)
        step, least = (
            per_token(bench.take_turns({"step": run}))["step"]["median"],
            bench.least(rows),
        )
        data[name] = {**least, "step_ms": step, "share": least["floor_ms"] / step}
        text = f"floor / step, one request, {what}: {least['bound_by']}-bound"
        figures.append(Figure(f"floor.{name}", data[name]["share"], text))
    data["profile"] = engine("profile", bench.ask(), min(PROFILED_TOKENS, tokens))
    data["bandwidth_gb_s"] = bench.machine("bandwidth") / 1e9
    return figures, data
