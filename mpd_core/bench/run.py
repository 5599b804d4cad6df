"""The bench from beginning to end: material, competitors, measures, report."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from mpd_core.bench import crowds, measures, report
from mpd_core.bench.context import BenchContext
from mpd_core.bench.material import shapes_of, write_pack
from mpd_core.bench.options import CPU_TARGETS, GPU_TARGETS, BenchOptions
from mpd_core.bench.peer_pool import PeerPool
from mpd_core.bench.values import Found, Spec
from mpd_core.errors import ModelSourceError
from mpd_core.models.base import default_device, in_blocks, weight_format
from mpd_core.models.sources import fetch_gguf, obtain
from mpd_core.packs import GGUFSource, Pack, load_pack

MEASURE: dict[str, tuple[Callable[[BenchContext], Found], set[str]]] = {
    "tax": (measures.tax, {"plain", "engine"}),
    **{
        name: (partial(measures.against, name), {"engine", "peft", "separate"})
        for name in measures.SCHEMES
    },
    "vs_llama": (measures.vs_llama, {"engine", "llama"}),
    "serve32": (crowds.serve32, {"engine", "plain", "machine"}),
    "memory": (measures.memory, {"engine", "separate"}),
    "floor": (measures.floor, {"engine", "machine"}),
    "shared": (crowds.shared, {"engine", "one_core"}),
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
        folder, pack = Path(scratch), load_pack(options.pack)
        device = options.device or default_device()
        gguf = _gguf(options, pack, device, folder)
        pool = PeerPool(_material(options, pack, device, folder, gguf), apart=apart)
        try:
            facts, info = pool.get("machine").call("facts"), pool.get("engine").call("info")
            pool.keep()  # the first measure begins before any other process has started
            pack = load_pack(folder / "pack")
            shapes = shapes_of(obtain(pack, pack.spec.base.source), pack)
            lacks = gguf if isinstance(gguf, str) else None
            bench = BenchContext(options, pack, shapes, pool, info, _tell, lacks)
            return _report(bench, {**facts, "precision": bench.precision}, _measure(bench))
        finally:
            pool.keep()


def _gguf(options: BenchOptions, pack: Pack, device: str, scratch: Path) -> Path | str:
    """The file that the base was converted from, for llama.cpp; or why there is no such peer."""
    source = pack.spec.base.source
    if device != "cpu":
        return "it runs on the CPU here"
    if find_spec("xllamacpp") is None:
        return "not installed here: pip install xllamacpp"
    if not isinstance(source, GGUFSource):
        return "the base was not converted from a GGUF, so llama.cpp has no file"
    try:
        return fetch_gguf(source, scratch, _tell) if "vs_llama" in options.only else ""
    except ModelSourceError as error:
        return str(error)


def _material(
    options: BenchOptions, pack: Pack, device: str, scratch: Path, gguf: Path | str
) -> Callable[[str, bool], Spec]:
    """Write the bench's packs; from a kind of competitor to what it loads."""
    _tell("Obtaining the base and writing random adapters.")
    base = obtain(pack, pack.spec.base.source, progress=_tell)
    write_pack(scratch / "pack", pack, base, options.seed)
    if "growth" in options.only:
        write_pack(scratch / "wide", pack, base, options.seed, experts=options.widest)
    precision = options.precision or pack.spec.base.precision
    format_ = weight_format(device, pack.spec.base.quantize, precision)
    blocks = in_blocks(format_, precision, base).blocks  # as they are in fp32, too

    def spec(kind: str, fp32: bool) -> Spec:
        where = scratch / ("wide" if kind == "wide" else "pack")
        # In fp32 a peer of a packed engine still has the weights that the engine has.
        half = fp32 and format_.packed is torch.float16 and not blocks
        file = gguf if isinstance(gguf, Path) else None
        return Spec(kind, where, "fp32" if fp32 else precision, device, half, file)

    return spec


def _measure(bench: BenchContext) -> dict[str, Found]:
    names = [name for name in MEASURE if name in bench.options.only]
    found: dict[str, Found] = {}
    for position, name in enumerate(names):
        _tell(f"Measure {position + 1} of {len(names)}: {name}.")
        found[name] = MEASURE[name][0](bench)
        _tell("  " + ", ".join(f"{f.name} {report.digits(f.value)}" for f in found[name][0]))
        bench.pool.keep(*(kind for later in names[position + 1 :] for kind in MEASURE[later][1]))
    return found


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
            name: {"target": str(target), "met": target.met(value)}
            for name, target in targets.items()
            if (value := values.get(name)) is not None
        },
        "checks": [asdict(check) for check in bench.checks],
        "data": {name: data for name, (_, data) in found.items()},
    }
    print(report.tables(summary, figures, targets) + "\n")
    print(report.one_line(summary), flush=True)
    return summary


def _tell(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
