"""The bench from beginning to end; then tables for people, and one line of JSON for programs."""

from __future__ import annotations

import datetime
import itertools
import json
import os
import platform
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from mpd_core.bench import crowds, measures
from mpd_core.bench.context import BenchContext
from mpd_core.bench.material import write_pack
from mpd_core.bench.values import CPU_TARGETS, GPU_TARGETS, BenchOptions, Figure, Found, Spec
from mpd_core.console import aligned, tell
from mpd_core.models.base import default_device
from mpd_core.packs import load_pack
from mpd_core.sources.obtain import obtain

MEASURE: dict[str, Callable[[BenchContext], Found]] = {
    "tax": measures.tax,
    **{name: partial(measures.against, name) for name in measures.SCHEMES},
    "vs_llama": measures.vs_llama,
    "serve32": crowds.serve32,
    "memory": measures.weights,
    "floor": measures.floor,
    "shared": crowds.shared,
    "growth": crowds.growth,
}
UNITS = {"ms_per_token": "ms/token", "first_ms": "ms to the first token", "seconds": "s"}
NOISY = 1.3
"""Largest over smallest of repeated times, above which a figure deserves no trust."""


def run(options: BenchOptions, *, apart: bool = True) -> dict[str, Any]:
    """Run the measures, print tables and the JSON line on stdout, and return what it says.

    Args:
        options: sizes and choices.
        apart: competitors in processes of their own; False only where times do not matter.

    Raises:
        MPDError: a model cannot be obtained, or a peer does not compute what the engine does.
    """
    with tempfile.TemporaryDirectory(prefix="mpd-bench-") as scratch:
        folder, pack = Path(scratch), load_pack(options.pack)
        tell("Obtaining the base and writing random adapters.")
        base = obtain(pack, pack.spec.base.source, progress=tell)
        write_pack(folder / "pack", pack, base)
        if "growth" in options.only:
            write_pack(folder / "wide", pack, base, experts=options.widest)
        precision = options.precision or pack.spec.base.precision
        spec = Spec(folder, options.pack, precision, options.device or default_device())
        with closing(BenchContext(options, spec, apart)) as bench:
            known = {**facts(spec.device), "precision": bench.precision}
            found, names = dict[str, Found](), [name for name in MEASURE if name in options.only]
            for position, name in enumerate(names, 1):
                bench.close()  # each measure begins before any other process has started
                tell(f"Measure {position} of {len(names)}: {name}.")
                found[name] = MEASURE[name](bench)
                tell("  " + ", ".join(f"{f.name} {_digits(f.value)}" for f in found[name][0]))
            return _report(bench, known, found)


def facts(device: str) -> dict[str, Any]:
    """Names and versions, for whoever reads the figures."""
    info, now = Path("/proc/cpuinfo"), datetime.datetime.now(datetime.timezone.utc)
    named = re.search(r"^model name\s*:\s*(.+)$", info.read_text() if info.exists() else "", re.M)
    return {
        "cpu": named[1] if named else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "device": device,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("torch", "transformers", "peft")},
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "date": now.strftime("%Y-%m-%d %H:%M UTC"),
    }


def _report(bench: BenchContext, facts: dict[str, Any], found: dict[str, Found]) -> dict[str, Any]:
    targets = CPU_TARGETS if bench.on_cpu else GPU_TARGETS
    figures = [figure for some, _ in found.values() for figure in some]
    values = {figure.name: figure.value for figure in figures}
    summary = {
        "bench": "mpd",
        "machine": facts,
        "options": asdict(bench.options),
        "figures": values,
        "targets": {
            name: {"target": target, "met": _met(target, value)}
            for name, target in targets.items()
            if (value := values.get(name)) is not None
        },
        "checks": bench.checks,
        "data": {name: data for name, (_, data) in found.items()},
    }
    print("\n\n".join(part for part in _tables(summary, figures, targets) if part) + "\n")
    print(json.dumps(summary, ensure_ascii=False, allow_nan=False), flush=True)
    return summary


def _met(target: str, value: float) -> bool:
    sign, bound = target.split()
    return value >= float(bound) if sign == ">=" else value <= float(bound)


def _tables(
    found: Mapping[str, Any], figures: Sequence[Figure], targets: Mapping[str, str]
) -> Iterator[str]:
    """The machine, the figures beside their targets, the times, the checks, and growth."""
    data, verdicts = found["data"], {True: "met", False: "MISSED", None: ""}
    yield ", ".join(
        f"{name} {value}" for name, value in found["machine"].items() if value is not None
    )
    rows = [("figure", "value", "target", "", "what it is")]
    for f in figures:
        verdict = verdicts[found["targets"].get(f.name, {}).get("met")]
        rows.append((f.name, _digits(f.value), targets.get(f.name, ""), verdict, f.meaning))
    yield aligned(rows)
    times: list[tuple[str, ...]] = [("time", "median", "min", "max", "")]
    for measure, kind in itertools.product(data, UNITS):
        for name, time in data[measure].get(kind, {}).items():
            remark = "noisy: was the machine quiet?" if time["max"] > NOISY * time["min"] else ""
            shown = (f"{time[key]:.4g}" for key in ("median", "min", "max"))
            times.append((f"{measure} {name} [{UNITS[kind]}]", *shown, remark))
    yield aligned(times)
    checks = [
        (c["peer"], f"{c['max_log_prob_difference']:.1e}", f"{c['tolerance']:g}", c["same_choice"])
        for c in found["checks"]
    ]
    yield aligned([("checked", "max |ln p - ln p'|", "tolerance", "same choice"), *checks])
    for name, points in data.get("growth", {}).get("lines", {}).items():
        body = [tuple(f"{value:.4g}" for value in point.values()) for point in points]
        yield aligned([(name, "experts", "ms a step", "tokens/s"), *body])


def _digits(value: float | None) -> str:
    """Three of a figure's, and all before its point."""
    return "-" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
