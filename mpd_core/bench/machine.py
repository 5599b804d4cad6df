"""The machine: what it is, how fast it reads memory, and how fast it multiplies matrices."""

from __future__ import annotations

import datetime
import os
import platform
import re
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.benchmark import Timer

from mpd_core.bench.material import shapes_of
from mpd_core.bench.schemes import Peer
from mpd_core.bench.values import Spec
from mpd_core.models.linear import PACKED

READ_BYTES = {"cpu": 2**28, "cuda": 2**32}
"""Larger than a last cache by far."""
MOST_COLUMNS = 4096
"""Of the matrix behind the product rate: it must stay in a cache, on a GPU too."""
MEASURED_S = 0.5
"""Of trials, however many calls each of them needs."""


class MachineSide(Peer):
    """Probes of one machine, run as a competitor so that they too have the cores to themselves."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self._shapes = shapes_of(self.base, self.pack)

    def facts(self) -> dict[str, Any]:
        """Names and versions, for whoever reads the figures."""
        cuda = self.format.device == "cuda"
        packages = ("torch", "transformers", "peft")
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        return {
            "cpu": _cpu_name(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if cuda else None,
            "device": self.format.device,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in packages},
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "load_before": load,
            "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        }

    @torch.inference_mode()
    def bandwidth(self) -> float:
        """Bytes a second that memory delivers: the better of a large sum and a large copy."""
        size = READ_BYTES[self.format.device]
        source = torch.ones(size // 4, device=self.format.device)
        target = torch.zeros_like(source)
        read = size / self._best(lambda: source.sum())
        copied = 2 * size / self._best(lambda: target.copy_(source))
        return max(read, copied)

    @torch.inference_mode()
    def product_rate(self, rows: int) -> float:
        """Floating point operations a second of ``rows`` times a matrix that lies in a cache.

        The matrix has the width of the base's widest product, fused as the engine fuses it, and
        its kernel. What it reads from memory is counted by ``bandwidth``, so here it reads none.
        """
        width, height = self._shapes.hidden, min(2 * self._shapes.widest, MOST_COLUMNS)
        dense = nn.Linear(width, height, bias=False)
        dtype, packed = self.format.dtype, self.format.packed
        linear = PACKED[packed](dense.weight, None) if packed else dense
        linear = linear.to(self.format.device, dtype)
        x = torch.randn(rows, 1, width, device=self.format.device, dtype=dtype)
        return 2 * rows * width * height / self._best(lambda: linear(x))

    def _best(self, action: Callable[[], Any]) -> float:
        """Seconds of the fastest trial, per call: a floor must not be flattered by noise."""
        threads = torch.get_num_threads()
        timer = Timer("action()", globals={"action": action}, num_threads=threads)
        return float(min(timer.blocked_autorange(min_run_time=MEASURED_S).times))


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    text = info.read_text("utf-8") if info.exists() else ""
    named = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return named[1] if named else platform.processor() or platform.machine()
