"""Competitors, each in a process of its own, taking turns.

Why processes: OpenMP keeps one pool of threads for every Python thread that ever ran a product,
and once the pools of a process have more threads than there are cores, every product waits up to
twice as long. A competitor that shared a process with the engine's worker would be slow, or make
the engine slow, for no reason of its own. So each has its process, with one pool, on all cores;
whoever does not run waits on a pipe, with its threads asleep. Turns alternate, A B A B, so that
a machine that slows down slows all alike. ``fairness`` measures that this is fair: a plain model,
before the others have started and among them, costs the same.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import multiprocessing
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from mpd_core.bench.options import BenchError
from mpd_core.bench.values import Spec

COMPETITORS = {
    "engine": "ours:EngineSide",
    "wide": "ours:EngineSide",
    "one_core": "ours:EngineSide",
    "plain": "plain:PlainSide",
    "peft": "peers:PeftSide",
    "separate": "peers:SeparateSide",
    "llama": "llama_cpp:LlamaCppSide",
    "machine": "machine:MachineSide",
}
"""A new one is a line here, and a class that takes a ``Spec``; its methods are called by name."""
PAUSE_S = 0.25
"""Between turns: threads of the last one stop spinning, and fall asleep."""


class InProcess:
    """A competitor in this process: in its own one, or in tests, where only results matter."""

    def __init__(self, spec: Spec) -> None:
        module, _, name = COMPETITORS[spec.kind].partition(":")
        self._side = getattr(importlib.import_module(f"mpd_core.bench.{module}"), name)(spec)

    def call(self, method: str, *arguments: Any) -> Any:
        return getattr(self._side, method)(*arguments)

    def close(self) -> None:
        getattr(self._side, "close", lambda: None)()


class OwnProcess:
    """A competitor in a new process."""

    def __init__(self, spec: Spec) -> None:
        self._name = spec.kind
        self._process = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        self._ask(_load, spec)

    def call(self, method: str, *arguments: Any) -> Any:
        time.sleep(PAUSE_S)
        return self._ask(_answer, method, arguments)

    def close(self) -> None:
        with contextlib.suppress(BenchError):
            self._ask(_close)
        self._process.shutdown()

    def _ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return self._process.submit(function, *arguments).result()
        except BrokenProcessPool as error:
            raise BenchError(
                f"The process of '{self._name}' ended: use smaller sizes if memory is short."
            ) from error
        except Exception as error:  # with the traceback of that process as its cause
            raise BenchError(f"'{self._name}' failed: {type(error).__name__}: {error}") from error


Competitor = InProcess | OwnProcess
_HERE: list[InProcess] = []
"""The competitor of a process that has one."""


def _load(spec: Spec) -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    _HERE.append(InProcess(spec))


def _answer(method: str, arguments: tuple[Any, ...]) -> Any:
    return _HERE[0].call(method, *arguments)


def _close() -> None:
    _HERE.pop().close()


class PeerPool:
    """Opens competitors when they are first called, and closes them when they are done with.

    ``specs`` leads from a kind, and whether in plain fp32, to what it is to load; ``apart`` says
    whether each has a process of its own.
    """

    def __init__(self, specs: Callable[[str, bool], Spec], *, apart: bool = True) -> None:
        self._specs = specs
        self._open: Callable[[Spec], Competitor] = OwnProcess if apart else InProcess
        self._competitors: dict[tuple[str, bool], Competitor] = {}

    def get(self, kind: str, *, fp32: bool = False) -> Competitor:
        if (kind, fp32) not in self._competitors:
            self._competitors[kind, fp32] = self._open(self._specs(kind, fp32))
        return self._competitors[kind, fp32]

    def keep(self, *kinds: str) -> None:
        """Close all others."""
        for key in [key for key in self._competitors if key[0] not in kinds]:
            self._competitors.pop(key).close()
