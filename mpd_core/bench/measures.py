"""One request: MPD beside one plain model and beside other ways to run several experts; bytes."""

from __future__ import annotations

from functools import partial
from typing import Any

from mpd_core.bench.context import BenchContext
from mpd_core.bench.roofline import Rows
from mpd_core.bench.values import Figure, Found, Timing, ratios, spread

NOCACHE_TOKENS = 8
SCHEMES = {
    "vs_mod": {
        "loop": "set_adapter loop / MPD",
        "separate": "separate merged models in sequence / MPD",
    },
    "vs_peft": {"batch": "PEFT mixed batch / MPD"},
    "vs_nocache": {"nocache": "no cache / MPD"},
}
"""Other ways to run several experts, as peers have them."""


def per_token(runs: dict[str, list[Timing]]) -> dict[str, dict[str, float]]:
    """Milliseconds a token while decoding, over the repeats."""
    return {name: spread([run.ms_per_token for run in some]) for name, some in runs.items()}


def tax(bench: BenchContext) -> Found:
    """What MPD costs over one plain model; that one, too, before any other process has started."""
    vanilla, tokens = bench.ask(method="vanilla"), bench.options.tokens
    plain, precision = bench.get("plain", fp32=bench.on_cpu), " in fp32" if bench.on_cpu else ""
    generate = partial(plain.call, "generate", (vanilla,), tokens)
    alone = bench.take_turns({"alone": generate})
    engine = bench.get("engine").call
    bench.check("generate", plain, "cached", vanilla)
    contests = {
        "mpd": partial(engine, "decode", (bench.ask(),), tokens),
        "vanilla": partial(engine, "decode", (vanilla,), tokens),
        "generate": generate,
    }
    ms = per_token(alone | bench.take_turns(contests))
    figures = {
        "tax.a": ("mpd", "vanilla", "MPD / one plain model, this engine"),
        "tax.b": ("mpd", "generate", f"MPD / generate{precision}"),
        "tax.fair": ("generate", "alone", "generate among the others / alone: 1 is fair"),
    }
    return ratios(figures, ms), {"ms_per_token": ms}


def against(measure: str, bench: BenchContext) -> Found:
    """MPD against the schemes of a measure, in the engine's precision and in plain fp32."""
    most = NOCACHE_TOKENS if measure == "vs_nocache" else bench.options.tokens
    ask, tokens = bench.ask(), min(most, bench.options.tokens)
    contests = {"mpd": partial(bench.get("engine").call, "decode", (ask,), tokens)}
    figures: dict[str, tuple[str, str, str]] = {}
    for fp32, ending in bench.peer_precisions.items():
        for scheme, meaning in SCHEMES[measure].items():
            merged = scheme == "separate"
            if merged and (fp32 or not bench.mergeable):
                continue  # in fp32 as the loop, without the loop's overhead; once is enough
            peer, label = bench.get("separate" if merged else "peft", fp32=fp32), scheme + ending
            bench.check(label, peer, scheme, ask, rounded=merged)
            contests[label] = partial(peer.call, "decode", scheme, ask, tokens)
            what = meaning + ", peer in fp32" * fp32
            figures[f"{measure}.{label}"] = label, "mpd", what
    ms = per_token(bench.take_turns(contests))
    return ratios(figures, ms), {"ms_per_token": ms}


LLAMA = {
    "ms_per_token": {
        "vs_llama.one": ("plain", "llama", "one plain model, this engine / llama.cpp"),
        "vs_llama.mpd": ("mpd", "llama", "MPD / one plain model of llama.cpp"),
    },
    "first_ms": {
        "vs_llama.first": ("plain", "llama", "first token, one plain model / llama.cpp"),
        "vs_llama.first_mpd": ("mpd", "plain", "first token, MPD / one plain model, this engine"),
    },
    "seconds": {
        "vs_llama.crowd": ("crowd", "slots", "plain requests at once / llama.cpp's slots"),
        "vs_llama.soups": ("mpd_crowd", "soups", "MPD at once / soups one by one, llama.cpp"),
    },
}
"""Figures of ``vs_llama`` by what is timed: ratios of two contests."""
SAME = "greedy text up to the first difference: share of it, "


def vs_llama(bench: BenchContext) -> Found:
    """Against llama.cpp on the very blocks that the base came in: plain, in slots, and soups."""
    if reason := bench.llama_lacks:
        meanings = {name: row[2] for rows in LLAMA.values() for name, row in rows.items()}
        meanings |= {f"vs_llama.same_{method}": SAME + method for method in ("vanilla", "soup")}
        return [Figure(name, None, f"{what}: {reason}") for name, what in meanings.items()], {}
    engine, llama, tokens = bench.get("engine").call, bench.get("llama").call, bench.options.tokens
    crowds = {m: bench.crowd(bench.options.requests, m) for m in ("vanilla", "mpd", "soup")}
    one = (bench.ask(method="vanilla"),)
    single = bench.take_turns(
        {
            "plain": partial(engine, "decode", one, tokens),
            "mpd": partial(engine, "decode", (bench.ask(),), tokens),
            "llama": partial(llama, "in_turn", one, tokens),
        }
    )
    many = bench.take_turns(
        {
            "crowd": partial(engine, "decode", crowds["vanilla"], tokens),
            "mpd_crowd": partial(engine, "decode", crowds["mpd"], tokens),
            "slots": partial(llama, "together", crowds["vanilla"], tokens),
            "soups": partial(llama, "in_turn", crowds["soup"], tokens),
        }
    )
    data: dict[str, Any] = {
        "ms_per_token": per_token(single),
        "first_ms": {n: spread([run.first_ms[0] for run in some]) for n, some in single.items()},
        "seconds": {n: spread([run.seconds for run in some]) for n, some in many.items()},
    }
    figures = [figure for kind, rows in LLAMA.items() for figure in ratios(rows, data[kind])]
    for method in ("vanilla", "soup"):
        ask, name = bench.ask(method=method), f"same_{method}"
        data[name] = engine("text", ask, tokens), llama("text", ask, tokens)
        figures.append(Figure(f"vs_llama.{name}", _same(*data[name]), SAME + method))
    return figures, data


def _same(ours: str, theirs: str) -> float:
    """Share of a text before its first difference from another."""
    pairs = zip(ours, theirs, strict=False)
    alike = next((k for k, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(theirs)))
    return alike / max(len(ours), len(theirs), 1)


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
    n, engine = bench.experts, bench.get("engine").call
    cases = {
        "one": ("mpd", Rows(n, 1, n + 1, bench.context, texts=2), "experts + PCM"),
        "vanilla": ("vanilla", Rows(1, context=bench.context), "one plain model"),
    }
    figures, data = [], dict[str, Any]()
    for name, (method, rows, what) in cases.items():
        run = partial(engine, "decode", (bench.ask(method=method),), bench.options.tokens)
        step = per_token(bench.take_turns({"step": run}))["step"]["median"]
        least = bench.least(rows)
        data[name] = {**least, "step_ms": step, "share": least["floor_ms"] / step}
        text = f"floor / step, one request, {what}: {least['bound_by']}-bound"
        figures.append(Figure(f"floor.{name}", data[name]["share"], text))
    return figures, data | {"bandwidth_gb_s": bench.rate("bandwidth") / 1e9}
