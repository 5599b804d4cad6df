"""Competitors, each in a process of its own, taking turns.

Why processes: OpenMP keeps one pool of threads for every Python thread that ever ran a product,
and once the pools of a process have more threads than there are cores, every product waits up to
twice as long. A competitor that shared a process with the engine's worker would be slow, or make
the engine slow, for no reason of its own. So each has its process, with one pool, on all cores;
whoever does not run waits on a pipe, with its threads asleep. Turns alternate, A B A B, so that
a machine that slows down slows all alike. ``tax`` measures that this is fair: a plain model,
before the others have started and among them, costs the same.
"""

from __future__ import annotations

import importlib
import logging
import multiprocessing
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping
from multiprocessing.connection import Connection
from typing import Any, Protocol

from mpd_core.bench.options import BenchError, BenchOptions
from mpd_core.bench.values import Run, Spec

PAUSE_S = 0.25
"""Between turns: threads of the last one stop spinning, and fall asleep."""
KINDS = {
    "engine": "mpd_core.bench.ours:EngineSide",
    "wide": "mpd_core.bench.ours:EngineSide",
    "plain": "mpd_core.bench.plain:PlainSide",
    "peft": "mpd_core.bench.peers:PeftSide",
    "separate": "mpd_core.bench.peers:SeparateSide",
    "machine": "mpd_core.bench.machine:MachineSide",
}


class Competitor(Protocol):
    """Something whose methods can be called by name, wherever it lives."""

    def call(self, method: str, *arguments: Any) -> Any: ...

    def close(self) -> None: ...


class InProcess:
    """A competitor in this process: for tests, where only results matter."""

    def __init__(self, spec: Spec) -> None:
        self._side = _make(spec)

    def call(self, method: str, *arguments: Any) -> Any:
        return getattr(self._side, method)(*arguments)

    def close(self) -> None:
        self._side.close()


class OwnProcess:
    """A competitor in a new process."""

    def __init__(self, spec: Spec) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._name = spec.kind
        self._process = context.Process(target=_serve, args=(theirs, spec), daemon=True)
        self._process.start()
        theirs.close()
        self._receive()

    def call(self, method: str, *arguments: Any) -> Any:
        time.sleep(PAUSE_S)
        self._pipe.send((method, arguments))
        return self._receive()

    def close(self) -> None:
        if self._process.is_alive():
            self._pipe.send(None)
            self._process.join(timeout=30)
        if self._process.is_alive():
            self._process.terminate()
        self._pipe.close()

    def _receive(self) -> Any:
        try:
            fine, value = self._pipe.recv()
        except (EOFError, OSError) as error:
            self._process.join(timeout=5)
            raise BenchError(
                f"The process of '{self._name}' ended with code {self._process.exitcode}: "
                "use smaller sizes if memory is short."
            ) from error
        if not fine:
            raise BenchError(f"'{self._name}' failed: {value}")
        return value


class PeerPool:
    """Opens competitors when they are first called, and closes them when they are done with."""

    def __init__(self, specs: Callable[[str, bool], Spec], *, apart: bool = True) -> None:
        """Make an empty field.

        Args:
            specs: from a kind, and whether in plain fp32, to what it is to load.
            apart: each in its own process; otherwise in this one.
        """
        self._specs = specs
        self._open: Callable[[Spec], Competitor] = OwnProcess if apart else InProcess
        self._competitors: dict[tuple[str, bool], Competitor] = {}

    def get(self, kind: str, *, fp32: bool = False) -> Competitor:
        key = (kind, fp32)
        if key not in self._competitors:
            self._competitors[key] = self._open(self._specs(kind, fp32))
        return self._competitors[key]

    def keep(self, kinds: Iterable[str]) -> None:
        """Close all others."""
        kept = set(kinds)
        for key in [key for key in self._competitors if key[0] not in kept]:
            self._competitors.pop(key).close()

    def close(self) -> None:
        self.keep(())


def take_turns(
    competitors: Mapping[str, Callable[[], Run]], options: BenchOptions, *, warm: bool = True
) -> dict[str, list[Run]]:
    """Time each competitor ``repeats`` times, in turn, after a round that does not count."""
    if warm:
        for run in competitors.values():
            run()
    runs: dict[str, list[Run]] = {name: [] for name in competitors}
    for _ in range(options.repeats):
        for name, run in competitors.items():
            runs[name].append(run())
    return runs


def _make(spec: Spec) -> Any:
    module, _, name = KINDS[spec.kind].partition(":")
    return getattr(importlib.import_module(module), name)(spec)


def _serve(pipe: Connection, spec: Spec) -> None:
    """A competitor's process: load, then answer calls until told to end."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    try:
        side = _make(spec)
        pipe.send((True, None))
        while (call := pipe.recv()) is not None:
            pipe.send(_answer(side, *call))
        side.close()
    except (EOFError, KeyboardInterrupt):
        return  # the bench was interrupted
    except Exception as error:
        pipe.send((False, f"{type(error).__name__}: {error}"))


def _answer(side: Any, method: str, arguments: tuple[Any, ...]) -> tuple[bool, Any]:
    try:
        return True, getattr(side, method)(*arguments)
    except Exception as error:
        traceback.print_exc()
        return False, f"{type(error).__name__}: {error}"
