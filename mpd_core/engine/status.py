"""What an engine holds, how it computes and what it promises; bytes of tensors and processes."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import mmap
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mpd_core.engine.runner import Runner
from mpd_core.engine.scheduler import RowTable, Scheduler
from mpd_core.models.blocks import BlockLinear
from mpd_core.models.cache import RowCache
from mpd_core.models.compiling import loop_threads
from mpd_core.models.layouts import base_of
from mpd_core.models.linear import PACKED, Bf16Linear, PackedLinear
from mpd_core.models.llama import Rotary
from mpd_core.models.rows import RowModel

ADAPTER_MODULES = tuple(f"mpd_core.models.{name}" for name in ("lora", "layouts", "adapters"))
KNOWN = ("mpd_core", "transformers.cache")
PRODUCTS = {kind.__name__: f"packed {str(dtype)[6:]}" for dtype, kind in PACKED.items()}
MIB = 2**20
ROWS, TOKENS = 7, 3
"""Seven rows are six and one more to AVX2's kernels."""
PLACE = 3
TO_THE_BIT, TO_ROUNDING = "equal to the bit", "equal up to rounding, about 1e-5"


def report(runner: Runner, scheduler: Scheduler) -> dict[str, Any]:
    """Plain values: every model with its kernels and rows, requests, and bytes.

    Read while the engine works, numbers may be one step apart from each other.
    """
    held = {f"{name}_tensors": size for name, size in held_bytes(runner).items()}
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
        "mib": {n: round(size / MIB, 1) for n, size in {**held, **process_memory()}.items()},
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
            pending += [(part, _kind(part, name, kind)) for name, part in _parts(thing)]
    return {"base": found["base"], "adapters": found["adapters"], "cache": found["cache"]}


def _kind(thing: Any, name: str, inherited: str) -> str:
    if isinstance(thing, (RowCache, Rotary)):  # both by position, neither from a file
        return "cache"
    if type(thing).__module__ in ADAPTER_MODULES:
        return "adapters"
    return "base" if name == "base" else inherited  # what lies under an adapter


def _parts(thing: Any) -> Iterator[tuple[str, Any]]:
    """Whatever an object holds, by name; objects of other libraries are not looked into.

    Copies are gone through, each made in one go: a worker may be changing the thing itself.
    """
    if isinstance(thing, dict):
        yield from ((str(key), value) for key, value in tuple(thing.items()))
    elif isinstance(thing, (list, tuple, set, frozenset)):
        yield from (("", value) for value in tuple(thing))
    elif isinstance(thing, nn.Module) or type(thing).__module__.startswith(KNOWN):
        yield from getattr(thing, "__dict__", {}).copy().items()


def release() -> None:
    """Give back to the system what loading has freed, which glibc would keep for later, and pages
    of libraries' files that it has read."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.malloc_trim(0)
        for start, size in _pages_of_code():
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), mmap.MADV_DONTNEED)


def _pages_of_code() -> Iterator[tuple[int, int]]:
    """Address and bytes of what LLVM and torch are mapped to and nobody writes to.

    LLVM is hardly needed once loops are compiled, nor are most of torch's operators. A page that is
    needed again comes from the system's own copy of the file. No other files: what could be
    unmapped in between might be somebody's memory by now. And nothing of which a page is no longer
    the file's, since that would be lost.
    """
    own: re.Match[str] | None = None
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        if re.match("[0-9a-f]+-[0-9a-f]+ ", line):
            own = re.match(r"([0-9a-f]+)-([0-9a-f]+) r-[x-]p .*/lib(llvmlite|torch)\w*\.so$", line)
        elif own and line.split() == ["Anonymous:", "0", "kB"]:
            start, end = (int(address, 16) for address in own.groups()[:2])
            yield start, end - start


def process_memory() -> dict[str, int]:
    """Bytes of this process: resident now, the most ever, and the most on a GPU.

    ``cache_resident`` is what a CPU's key-value cache has written to since nobody asked for
    anything, and what is kept of ended requests.
    """
    peak = 0
    with contextlib.suppress(ImportError):  # there is none on Windows
        resource: Any = importlib.import_module("resource")
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    held = _held_now()
    return {
        "resident": held.get("VmRSS", peak),
        "cache_resident": held.get("RssShmem", 0),  # mapped shared; torch and Python map nothing so
        "peak": peak,
        "gpu_peak": gpu,
    }


def _held_now() -> dict[str, int]:
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return {}
    fields = (line.split() for line in lines)
    return {name.rstrip(":"): int(rest[0]) * 1024 for name, *rest in fields if rest[1:] == ["kB"]}


def promise(lanes: Mapping[str, RowModel]) -> str:
    """What holds, alone and in a crowd, of the log-probabilities of requests that run on these."""
    return TO_THE_BIT if all(lane.alike for lane in lanes.values()) else TO_ROUNDING


@torch.inference_mode()
def try_out(lane: RowModel, *, reads_states: bool) -> None:
    """Note on a model whether one of several rows is what it is alone, read and decoded.

    On a GPU, and where steps are laid out at fixed shapes, nothing is promised or tried.

    Args:
        lane: with nothing in its cache yet.
        reads_states: of a trunk below, instead of tokens.
    """
    bases = map(base_of, lane.products())
    products = [base for base in bases if isinstance(base, PackedLinear | Bf16Linear | BlockLinear)]
    alike = all(product.counts.alike for product in products)
    if lane.device.type != "cpu" or lane.graphs is not None or not (products and alike):
        return
    random = torch.Generator().manual_seed(0)
    size = (min(ROWS, lane.cache.capacity), TOKENS)
    if reads_states:
        inputs = torch.randn(*size, lane.hidden_size, generator=random)
    else:
        inputs = torch.randint(lane.vocab_size, size, generator=random)
    row = min(PLACE, size[0] - 1)
    together = [part[row] for part in _run(lane, inputs)]
    alone = [part[0] for part in _run(lane, inputs[row : row + 1])]
    lane.alike = all(torch.equal(*pair) for pair in zip(together, alone, strict=True))
    lane.exact = lane.exact and lane.alike


def _run(lane: RowModel, inputs: Tensor) -> list[Tensor]:
    """States, and log-probabilities where there are any, of a prompt and of a token after it."""
    rows, tokens = inputs.shape[:2]
    places = torch.arange(tokens).expand(rows, -1)
    read = lane.forward(inputs[:, :-1].contiguous(), places[:, :-1], 0, [()] * rows)
    decoded = lane.forward(inputs[:, -1:].contiguous(), places[:, -1:], 0, [()] * rows)
    said = [lane.log_probs(decoded[:, -1], [()] * rows)] if lane.speaks else []
    return [read, decoded, *said]
