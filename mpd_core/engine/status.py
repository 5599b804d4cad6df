"""What an engine holds and how it computes, for whoever runs it."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import nn

from mpd_core.engine.memory import held_bytes, process_memory
from mpd_core.engine.promise import TO_ROUNDING, TO_THE_BIT
from mpd_core.engine.runner import Runner
from mpd_core.engine.scheduler import RowTable, Scheduler
from mpd_core.models.kernels import loop_threads
from mpd_core.models.layouts import base_of
from mpd_core.models.linear import PACKED
from mpd_core.models.rows import RowModel

PRODUCTS = {kind.__name__: f"packed {str(dtype)[6:]}" for dtype, kind in PACKED.items()}
MIB = 2**20


def report(runner: Runner, scheduler: Scheduler) -> dict[str, Any]:
    """Plain values: every model with its kernels and rows, requests, and bytes.

    Read while the engine works, numbers may be one step apart from each other.
    """
    held = held_bytes(runner)
    process = process_memory()
    return {
        "loop_threads": loop_threads(),
        "models": {
            name: _lane(lane, scheduler.tables[name]) for name, lane in runner.lanes.items()
        },
        "requests": {
            "running": len(scheduler.running),
            "entering": int(scheduler.entering is not None),
            "waiting": len(scheduler.waiting),
        },
        "mib": {
            **{f"{name}_tensors": round(size / MIB, 1) for name, size in held.items()},
            **{name: round(size / MIB, 1) for name, size in process.items()},
        },
    }


def _lane(lane: RowModel, table: RowTable) -> dict[str, Any]:
    held = [*table.running, *table.entering]
    return {
        "decoder": lane.decoder,
        "crowd": TO_THE_BIT if lane.alike else TO_ROUNDING,
        "layers": len(lane.cache.layers),
        "products": dict(Counter(_product(module) for module in lane.products())),
        "adapters": list(lane.adapters_in_use),
        "graphs": "off" if lane.graphs is None else lane.graphs,
        "rows": f"{len(held)} of {table.capacity}",
        "kept_rows": len(table.kept),
        "tokens": f"{sum(row.length for row in held)} of {table.budget}",
    }


def _product(module: nn.Module) -> str:
    base = base_of(module)
    kind = type(base).__name__
    return PRODUCTS.get(kind, kind) + (" + LoRA" if base is not module else "")
