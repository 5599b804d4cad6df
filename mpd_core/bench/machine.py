"""The machine: what it is, and how fast it reads memory."""

from __future__ import annotations

import datetime
import os
import platform
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch.utils.benchmark import Timer

READ_BYTES = {"cpu": 2**28, "cuda": 2**32}
"""Larger than a last cache by far."""
MEASURED_S = 0.5
"""Of trials, however many calls each of them needs."""


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


@torch.inference_mode()
def bandwidth(device: str) -> float:
    """Bytes a second that memory delivers: the better of a large sum and a large copy."""
    size = READ_BYTES[device]
    source = torch.ones(size // 4, device=device)
    rates = []
    for read, statement in ((size, "source.sum()"), (2 * size, "target.copy_(source)")):
        names = {"source": source, "target": torch.zeros_like(source)}
        timer = Timer(statement, globals=names, num_threads=torch.get_num_threads())
        # The fastest trial: a lower bound of time must not be flattered by noise.
        rates.append(read / min(timer.blocked_autorange(min_run_time=MEASURED_S).times))
    return float(max(rates))
