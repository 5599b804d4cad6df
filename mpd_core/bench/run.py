"""The bench from beginning to end: material, competitors, measures, report."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mpd_core.bench import crowds, measures, report, shared
from mpd_core.bench.context import BenchContext
from mpd_core.bench.material import shapes_of, write_pack
from mpd_core.bench.options import CPU_TARGETS, GPU_TARGETS, BenchOptions
from mpd_core.bench.peer_pool import PeerPool
from mpd_core.bench.values import Found, Spec
from mpd_core.models.base import default_device, in_blocks, weight_format
from mpd_core.models.sources import obtain
from mpd_core.packs import load_pack

MEASURE: dict[str, tuple[Callable[[BenchContext], Found], set[str]]] = {
    "fairness": (measures.fairness, {"plain", "engine"}),
    "tax": (measures.tax, {"plain", "engine"}),
    **{
        name: (partial(measures.against, name), {"engine", "peft", "separate"})
        for name in measures.SCHEMES
    },
    "vs_llama": (measures.vs_llama, {"engine", "llama"}),
    "serve32": (crowds.serve32, {"engine", "plain", "machine"}),
    "memory": (measures.memory, {"engine", "separate"}),
    "floor": (measures.floor, {"engine", "machine"}),
    "shared": (shared.shared, {"engine", "one_core"}),
    "growth": (crowds.growth, {"engine", "wide"}),
}
"""With the competitors of each; one that no later measure uses is closed."""


def run(options: BenchOptions, *, apart: bool = True) -> dict[str, Any]:
    """Run the measures, print tables and the JSON line on stdout, and return what it says.

    Args:
        options: sizes and choices.
        apart: competitors in processes of their own; False only where times do not matter.

    Raises:
        MPDError: a model cannot be obtained, or a peer does not compute what the engine does.
    """
    with tempfile.TemporaryDirectory(prefix="mpd-bench-") as scratch:
        pool = PeerPool(_material(options, Path(scratch)), apart=apart)
        try:
            return _run(options, pool, Path(scratch))
        finally:
            pool.keep()


def _material(options: BenchOptions, scratch: Path) -> Callable[[str, bool], Spec]:
    """Write the bench's packs; from a kind of competitor to what it loads."""
    pack = load_pack(options.pack)
    _tell("Obtaining the base and writing random adapters.")
    base = obtain(pack, pack.spec.base.source, progress=_tell)
    write_pack(scratch / "pack", pack, base, options.seed)
    if "growth" in options.only:
        write_pack(scratch / "wide", pack, base, options.seed, experts=options.widest)
    device = options.device or default_device()
    precision = options.precision or pack.spec.base.precision
    format_ = weight_format(device, pack.spec.base.quantize, precision)
    blocks = in_blocks(format_, precision, base).blocks  # as they are in fp32, too

    def spec(kind: str, fp32: bool) -> Spec:
        where = scratch / ("wide" if kind == "wide" else "pack")
        # In fp32 a peer of a packed engine still has the weights that the engine has.
        half = fp32 and format_.packed is torch.float16 and not blocks
        return Spec(kind, where, "fp32" if fp32 else precision, device, half_weights=half)

    return spec


def _run(options: BenchOptions, pool: PeerPool, scratch: Path) -> dict[str, Any]:
    names = [name for name in MEASURE if name in options.only]
    if "tax" in names:
        names.insert(0, "fairness")  # a plain model before any other process has started
    facts = pool.get("machine").call("facts")
    pool.keep()
    pack, info = load_pack(scratch / "pack"), pool.get("engine").call("info")
    if names[0] == "fairness":
        pool.keep()
    shapes = shapes_of(obtain(pack, pack.spec.base.source), pack)
    bench = BenchContext(options, pack, shapes, pool, info, _tell)
    found: dict[str, Found] = {}
    for position, name in enumerate(names):
        _tell(f"Measure {position + 1} of {len(names)}: {name}.")
        found[name] = MEASURE[name][0](bench)
        _tell("  " + ", ".join(f"{f.name} {report.digits(f.value)}" for f in found[name][0]))
        pool.keep(*(kind for later in names[position + 1 :] for kind in MEASURE[later][1]))
    return _report(bench, {**facts, "precision": bench.precision}, found)


def _report(bench: BenchContext, facts: dict[str, Any], found: dict[str, Found]) -> dict[str, Any]:
    options = bench.options
    if options.out and "growth" in found:
        _tell(f"Plot: {report.save_growth(options.out, facts, found['growth'][1]['lines'])}")
    targets = CPU_TARGETS if bench.on_cpu else GPU_TARGETS
    figures = [figure for some, _ in found.values() for figure in some]
    values = {figure.name: figure.value for figure in figures if figure.value is not None}
    summary = {
        "bench": "mpd",
        "machine": facts,
        "options": asdict(options),
        "figures": {figure.name: figure.value for figure in figures},
        "targets": {
            name: {"target": str(target), "met": target.met(values[name])}
            for name, target in targets.items()
            if name in values
        },
        "checks": [asdict(check) for check in bench.checks],
        "data": {name: data for name, (_, data) in found.items()},
    }
    print(report.tables(summary, figures, targets) + "\n")
    print(report.one_line(summary), flush=True)
    return summary


def _tell(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
