"""The bench from beginning to end: material, competitors, measures, report."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mpd_core.bench import bounds, crowds, measures, report
from mpd_core.bench.context import BenchContext
from mpd_core.bench.material import shapes_of, write_pack, write_wide_pack
from mpd_core.bench.options import CPU_TARGETS, GPU_TARGETS, BenchOptions
from mpd_core.bench.peer_pool import PeerPool
from mpd_core.bench.values import Section, Spec
from mpd_core.models.base import default_device
from mpd_core.models.linear import can_pack
from mpd_core.models.sources import obtain
from mpd_core.packs import Pack, load_pack

MEASURE: dict[str, Callable[[BenchContext], Section]] = {
    "fairness": measures.fairness,
    "tax": measures.tax,
    "vs_mod": measures.vs_mod,
    "vs_peft": measures.vs_peft,
    "vs_nocache": measures.vs_nocache,
    "serve32": crowds.serve32,
    "memory": bounds.memory,
    "floor": bounds.roofline,
    "growth": crowds.growth,
}
USES = {
    "fairness": {"plain", "engine"},
    "tax": {"plain", "engine"},
    "vs_mod": {"engine", "peft", "separate"},
    "vs_peft": {"engine", "peft"},
    "vs_nocache": {"engine", "peft"},
    "serve32": {"engine", "plain", "machine"},
    "memory": {"engine", "separate"},
    "floor": {"engine", "machine"},
    "growth": {"engine", "wide"},
}
"""Competitors of each measure; one that no later measure uses is closed."""


def run(options: BenchOptions, *, apart: bool = True) -> dict[str, Any]:
    """Run the measures, print tables and the JSON line on stdout, and return what it says.

    Args:
        options: sizes and choices.
        apart: competitors in processes of their own; False only where times do not matter.

    Raises:
        MPDError: a model cannot be obtained, or a peer does not compute what the engine does.
    """
    with tempfile.TemporaryDirectory(prefix="mpd-bench-") as scratch:
        specs = _material(options, Path(scratch))
        field = PeerPool(specs, apart=apart)
        try:
            return _run(options, field, specs("engine", False).folder)
        finally:
            field.close()


def _material(options: BenchOptions, scratch: Path) -> Callable[[str, bool], Spec]:
    """Write the bench's packs; from a kind of competitor to what it loads."""
    pack = load_pack(options.pack)
    _tell("Obtaining the base and writing random adapters.")
    base = obtain(pack, pack.spec.base.source, progress=_tell)
    folder = write_pack(scratch / "pack", pack, base, options.seed)
    wide = scratch / "wide"
    if "growth" in options.only:
        write_wide_pack(wide, pack, base, options.seed, options.widest)
    device = options.device or default_device()
    precision = options.precision or pack.spec.base.precision
    packed = device == "cpu" and precision in ("auto", "fp16") and can_pack()
    dense = pack.spec.base.quantize == "none"

    def spec(kind: str, fp32: bool) -> Spec:
        where = wide if kind == "wide" else folder
        # In fp32 a peer of a packed engine still has the weights that the engine has.
        half = fp32 and packed and dense
        return Spec(kind, where, "fp32" if fp32 else precision, device, half_weights=half)

    return spec


def _run(options: BenchOptions, field: PeerPool, folder: Path) -> dict[str, Any]:
    names = [name for name in MEASURE if name in options.only]
    if "tax" in names:
        names.insert(0, "fairness")  # a plain model before any other process has started
    facts = field.get("machine").call("facts")
    field.close()
    pack = load_pack(folder)
    setting = _setting(options, field, pack, names[0] == "fairness")
    sections: dict[str, Section] = {}
    for position, name in enumerate(names):
        _tell(f"Measure {position + 1} of {len(names)}: {name}.")
        sections[name] = MEASURE[name](setting)
        _tell("  " + ", ".join(report.short(f) for f in sections[name].figures))
        later = {kind for other in names[position + 1 :] for kind in USES[other]}
        field.keep(later)
    return _report(options, setting, {**facts, "precision": setting.precision}, sections)


def _setting(options: BenchOptions, field: PeerPool, pack: Pack, close_again: bool) -> BenchContext:
    info = field.get("engine").call("info")
    if close_again:
        field.close()
    source = pack.spec.base.source
    shapes = shapes_of(obtain(pack, source), pack)
    return BenchContext(options, pack, shapes, field, info, _tell)


def _report(
    options: BenchOptions,
    setting: BenchContext,
    facts: dict[str, Any],
    sections: dict[str, Section],
) -> dict[str, Any]:
    targets = CPU_TARGETS if setting.on_cpu else GPU_TARGETS
    checks = setting.checks_as_dicts()
    if options.out and "growth" in sections:
        lines = sections["growth"].data["lines"]
        _tell(f"Plot: {report.save_growth(options.out, facts, lines)}")
    found = report.summary(facts, asdict(options), sections, targets, checks)
    print(report.tables(facts, sections, targets, checks) + "\n")
    print(report.one_line(found), flush=True)
    return found


def _tell(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
