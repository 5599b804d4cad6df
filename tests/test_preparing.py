"""Loops that are not on disk are compiled by another process, which ends."""

from __future__ import annotations

import signal
import subprocess
from typing import Any

import pytest
from numba import njit

from mpd_core.engine import preparing
from mpd_core.errors import EngineError
from mpd_core.models import kernels
from tests import avx2


def test_a_first_start_compiles_nothing_itself(started_with_avx2: avx2.Started) -> None:
    """So it is no larger than a second one; LLVM alone would have left it 100 MB more."""
    if not kernels.HAS_OPENMP:
        pytest.skip("without OpenMP no loop is kept")
    (first, held), (again, held_again) = (
        map(int, said.split()) for said in (started_with_avx2.said, started_with_avx2.again())
    )
    assert (first, again) == (0, 0)
    assert held < held_again + 40


@pytest.mark.base
def test_what_is_prepared_is_all_that_the_default_pack_needs(
    started_with_avx2: avx2.Started,
) -> None:
    if not kernels.HAS_OPENMP:
        pytest.skip("without OpenMP no loop is kept")
    arguments = ("smollm2-135m", "--max-new-tokens", "3", "--temperature", "1")
    assert started_with_avx2.again(*arguments).split()[0] == "0"


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Those that are started, where loops are missing."""
    started: list[Any] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        started.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(preparing, "_on_disk", lambda _: False)
    monkeypatch.setattr(preparing, "_take", lambda _: None)
    return started


def test_a_library_starts_no_process(processes: list[Any]) -> None:
    preparing.prepare()
    assert not processes
    preparing.prepare(apart=True)
    assert len(processes) == kernels.HAS_OPENMP


def test_nor_does_who_could_not_keep_what_it_compiles(
    processes: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "attend", njit(lambda: None))
    preparing.prepare(apart=True)
    assert not processes


def test_what_another_process_cannot_compile_is_compiled_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken: list[bool] = []
    monkeypatch.setattr("sys.executable", "/no/such/python")
    monkeypatch.setattr(preparing, "_on_disk", lambda _: False)
    monkeypatch.setattr(preparing, "_take", taken.append)
    preparing.prepare(apart=True)
    assert taken == [True]


def test_who_is_interrupted_compiles_nothing(
    processes: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl+C ends the other process, too."""
    ended = subprocess.CompletedProcess([], -signal.SIGINT)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: ended)
    monkeypatch.setattr(preparing, "_take", processes.append)
    with pytest.raises(EngineError, match="Interrupted"):
        preparing.prepare(apart=True)
    assert not processes


def test_missing_code_is_noticed_before_it_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing is broken by that: the same loop can be compiled afterwards."""
    loop = njit(lambda x: x + 1)
    monkeypatch.setattr(preparing, "_take", lambda _: loop(1))
    assert not preparing._on_disk(blocks=True)
    assert loop.signatures == []
    assert loop(1) == 2
    assert preparing._on_disk(blocks=True)
