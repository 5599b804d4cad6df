"""Competitors, each in a process of its own, taking turns.

Why processes: OpenMP keeps one pool of threads for every Python thread that ever ran a product,
and once the pools of a process have more threads than there are cores, every product waits up to
twice as long. A competitor that shared a process with the engine's worker would be slow, or make
the engine slow, for no reason of its own. So each has its process, with one pool, on all cores;
whoever does not run waits on a pipe, with its threads asleep. Turns alternate, A B A B, so that
a machine that slows down slows all alike. The measure ``tax`` checks that this is fair: a plain
model, before the others have started and among them, costs the same.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import multiprocessing
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from mpd_core.bench.options import BenchError
from mpd_core.bench.values import Spec

COMPETITORS = {
    "engine": "ours:EngineSide",
    "wide": "ours:EngineSide",
    "one_core": "ours:EngineSide",
    "plain": "peers:PlainSide",
    "peft": "peers:PeftSide",
    "separate": "peers:SeparateSide",
    "llama": "llama_cpp:LlamaCppSide",
    "machine": "machine:MachineSide",
}
"""A new one is a line here, and a class that takes a ``Spec``; its methods are called by name."""
PAUSE_S = 0.25
"""Between turns: threads of the last one stop spinning, and fall asleep."""


class Competitor:
    """One of them, in a new process; or in this one, in tests, where only results matter."""

    def __init__(self, spec: Spec, *, apart: bool = True) -> None:
        self._name, context = spec.kind, multiprocessing.get_context("spawn")
        self._process = ProcessPoolExecutor(1, context) if apart else None
        self._side = self._ask(self._process, _load, spec) if self._process else _side(spec)

    def call(self, method: str, *arguments: Any) -> Any:
        if self._process is None:
            return getattr(self._side, method)(*arguments)
        time.sleep(PAUSE_S)
        return self._ask(self._process, _call, method, arguments)

    def close(self) -> None:
        with contextlib.suppress(BenchError):
            self.call("close")
        if self._process:
            self._process.shutdown()

    def _ask(self, process: Executor, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return process.submit(function, *arguments).result()
        except BrokenProcessPool as error:
            raise BenchError(
                f"The process of '{self._name}' ended: use smaller sizes if memory is short."
            ) from error
        except Exception as error:  # with the traceback of that process as its cause
            raise BenchError(f"'{self._name}' failed: {type(error).__name__}: {error}") from error


_here: list[Any] = []
"""The competitor of a process that has one."""


def _side(spec: Spec) -> Any:
    module, _, name = COMPETITORS[spec.kind].partition(":")
    return getattr(importlib.import_module(f"mpd_core.bench.{module}"), name)(spec)


def _load(spec: Spec) -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    _here.append(_side(spec))


def _call(method: str, arguments: tuple[Any, ...]) -> Any:
    return getattr(_here[0], method)(*arguments)


class PeerPool:
    """Opens competitors when they are first called, and closes them when they are done with.

    ``specs`` leads from a kind, and whether in plain fp32, to what it is to load; ``apart`` says
    whether each has a process of its own.
    """

    def __init__(self, specs: Callable[[str, bool], Spec], *, apart: bool = True) -> None:
        self._specs, self._apart = specs, apart
        self._competitors: dict[tuple[str, bool], Competitor] = {}

    def get(self, kind: str, *, fp32: bool = False) -> Competitor:
        if (kind, fp32) not in self._competitors:
            self._competitors[kind, fp32] = Competitor(self._specs(kind, fp32), apart=self._apart)
        return self._competitors[kind, fp32]

    def keep(self, *kinds: str) -> None:
        """Close all others."""
        for key in [key for key in self._competitors if key[0] not in kinds]:
            self._competitors.pop(key).close()
