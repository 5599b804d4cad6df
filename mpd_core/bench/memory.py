"""Bytes: of the tensors that an object holds, and of the process."""

from __future__ import annotations

import resource
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mpd_core.models.cache import RowCache
from mpd_core.models.linear import PackedLinear

ADAPTER_MODULES = ("mpd_core.models.lora", "mpd_core.models.adapters")


def held_bytes(root: Any) -> dict[str, int]:
    """Bytes of all tensors within reach: ``base``, ``adapters`` and ``cache``.

    Packed fp16 matrices are opaque to torch: 2 bytes an element, 4 for one of a bias. Tensors
    that share storage count once.
    """
    found: Counter[str] = Counter()
    seen: set[int] = set()
    pending: list[tuple[Any, str]] = [(root, "base")]
    while pending:
        thing, kind = pending.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, Tensor):
            storage = thing.untyped_storage()
            if storage.data_ptr() not in seen:
                seen.add(storage.data_ptr())
                found[kind] += storage.nbytes()
        elif isinstance(thing, PackedLinear):
            found[kind] += 2 * thing.in_features * thing.out_features
        else:
            pending += [(part, _kind(part, kind)) for part in _parts(thing)]
    return {"base": found["base"], "adapters": found["adapters"], "cache": found["cache"]}


def _kind(thing: Any, inherited: str) -> str:
    if isinstance(thing, RowCache):
        return "cache"
    if isinstance(thing, PackedLinear):
        return "base"
    if type(thing).__module__ in ADAPTER_MODULES:
        return "adapters"
    # A dense linear, under an adapter or not, belongs to the base.
    return "base" if isinstance(thing, nn.Linear) else inherited


def _parts(thing: Any) -> Iterator[Any]:
    if isinstance(thing, dict):
        yield from thing.values()
    elif isinstance(thing, (list, tuple, set, frozenset)):
        yield from thing
    elif isinstance(thing, nn.Module) or type(thing).__module__.startswith("mpd_core"):
        yield from vars(thing).values() if hasattr(thing, "__dict__") else ()
    elif isinstance(thing, RowCache) or type(thing).__module__.startswith("transformers.cache"):
        yield from vars(thing).values()


def process_memory() -> dict[str, int]:
    """Bytes of this process: resident now, the most ever, and the most on a GPU."""
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return {"resident": _resident() or peak, "peak": peak, "gpu_peak": gpu}


def _resident() -> int | None:
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError:  # not Linux
        return None
    return int(pages) * resource.getpagesize()
