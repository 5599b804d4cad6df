"""Bytes, and the floor under a step: how much of the machine is used."""

from __future__ import annotations

from typing import Any

from mpd_core.bench.context import BenchContext
from mpd_core.bench.measures import per_token
from mpd_core.bench.roofline import Rows, step_cost
from mpd_core.bench.values import Ask, Figure, Section

PROFILED_TOKENS = 16


def memory(bench: BenchContext) -> Section:
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
        models, count = peers["weights"]["base"], len(bench.pack.space.dimensions) + 1
        figures += [
            Figure("memory.models", models / base, f"{count} separate models / one model"),
            Figure("memory.models_peak_mb", peers["peak"] / 2**20, "MiB at most of their process"),
        ]
    return Section(tuple(figures), data)


def roofline(bench: BenchContext) -> Section:
    """Share of a measured step that bytes or arithmetic alone would take: 1 is perfect."""
    experts = len(bench.pack.space.dimensions)
    cases = {
        "one": (bench.ask(), Rows(experts, 1, experts + 1, bench.context, texts=2)),
        "vanilla": (bench.ask(method="vanilla"), Rows(1, context=bench.context)),
    }
    figures, data = [], dict[str, Any]()
    meanings = {"one": "one request, experts + PCM", "vanilla": "one request, one plain model"}
    for name, (ask, rows) in cases.items():
        data[name] = _share(bench, ask, rows)
        text = f"floor / step, {meanings[name]}: {data[name]['bound_by']}-bound"
        figures.append(Figure(f"floor.{name}", data[name]["share"], text))
    tokens = min(PROFILED_TOKENS, bench.options.tokens)
    data["profile"] = bench.get("engine").call("profile", bench.ask(), tokens)
    data["bandwidth_gb_s"] = bench.bandwidth() / 1e9
    return Section(tuple(figures), data)


def _share(bench: BenchContext, ask: Ask, rows: Rows) -> dict[str, Any]:
    engine, tokens = bench.get("engine"), bench.options.tokens
    runs = bench.take_turns({"step": lambda: engine.call("decode", (ask,), tokens)})
    step = per_token(runs)["step"].median
    rate = bench.product_rate(rows.all)
    cost = step_cost(bench.shapes, rows, bench.precision, cpu=bench.on_cpu)
    least, binds = cost.roofline(bench.bandwidth(), rate)
    return {
        "rows": rows.all,
        "step_ms": step,
        "floor_ms": least,
        "share": least / step,
        "bound_by": binds,
        "bytes": cost.bytes,
        "operations": cost.operations,
        "gflops_at_rows": rate / 1e9,
        "memory_ms": 1000 * cost.bytes / bench.bandwidth(),
        "arithmetic_ms": 1000 * cost.operations / rate,
    }
