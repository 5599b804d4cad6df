"""An engine's loops, made ready before anyone waits for them.

Who compiles keeps what LLVM compiled with, some hundred MB, until its process ends. So where a
first start should not be larger than a second, another process compiles, and this one takes the
code from disk.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from typing import Any

from numba.core import event

from mpd_core.engine import distribution
from mpd_core.errors import EngineError
from mpd_core.models import kernels, layer_loops, step_loops


def prepare(*, blocks: bool = True, apart: bool = False) -> None:
    """Take every loop's code from disk, or compile it for this CPU and keep it there.

    Args:
        blocks: also the loops of a base in blocks.
        apart: compile in a process of its own what is not on disk. Where nothing can be kept on
            disk, or such a process fails, it is compiled here.

    Raises:
        EngineError: that process was interrupted.
    """
    kept: Any = kernels.attend
    if apart and kept.stats.cache_path is not None and not _on_disk(blocks):
        _compile_apart(blocks)
    _take(blocks)


def _take(blocks: bool) -> None:
    for loops in (kernels, step_loops, distribution):
        loops.prepare()
    if blocks:
        layer_loops.prepare()


class _MissingError(Exception):
    """A loop's code is not on disk."""


class _Refuse(event.Listener):  # type: ignore[misc]
    """Ends what this thread would compile before it begins."""

    def __init__(self) -> None:
        self._own = threading.get_ident()

    def on_start(self, _: Any) -> None:
        if threading.get_ident() == self._own:
            raise _MissingError

    def on_end(self, _: Any) -> None:
        """Nothing to do."""


def _on_disk(blocks: bool) -> bool:
    """Whether nothing has to be compiled; what is on disk has been taken from there."""
    with event.install_listener("numba:compile", _Refuse()):
        try:
            _take(blocks)
        except _MissingError:
            return False
    return True


def _compile_apart(blocks: bool) -> None:
    """``prepare`` in a process of its own, which imports from where this one does.

    Raises:
        EngineError: it was interrupted, and with it whatever else the terminal runs: who compiled
            here now would keep its user waiting.
    """
    code = f"from {__name__} import prepare; prepare(blocks={blocks})"
    path = os.pathsep.join(map(os.path.abspath, sys.path))
    nobody = subprocess.DEVNULL
    with contextlib.suppress(OSError):
        done = subprocess.run(
            [sys.executable or "python", "-c", code],
            env={**os.environ, "PYTHONPATH": path},
            stdin=nobody,
            stdout=nobody,
            stderr=nobody,
            check=False,
        )
        if done.returncode == -signal.SIGINT:
            raise EngineError("Interrupted while loops were compiled.")
