"""A page's engine that comes later: its stages, its failure, and requests that wait for it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mpd_core.engine import Engine
from mpd_core.engine.scheduler import Scheduler
from mpd_core.engine.sequence import Sequence
from mpd_core.errors import EngineError, PackError
from mpd_core.packs import load_pack
from mpd_core.ui import zerogpu
from mpd_core.ui.opening import Opening, describe
from tests import tiny
from tests.browser.conftest import free_port
from tests.browser.scripted import ScriptedEngine
from tests.fresh_python import ROOT
from tests.patience import PATIENCE
from tests.test_engine import ask


def silent(_: str) -> None:
    """Tell nobody."""


def test_stages_are_told_until_the_engine_is_there(tiny_pack_dir: Path) -> None:
    pack, go, told = load_pack(tiny_pack_dir), threading.Event(), threading.Event()
    heard: list[str] = []

    def opener(tell: object) -> ScriptedEngine:
        tell("Reading weights.")  # type: ignore[operator]
        told.set()
        go.wait(PATIENCE)
        return ScriptedEngine(pack)

    opening = Opening(pack, opener, heard.append)  # type: ignore[arg-type]
    assert describe(opening) == {
        "ready": False, "stage": "Starting.", "device": "", "precision": "", "notes": [],
    }  # fmt: skip
    opening.start()
    assert told.wait(PATIENCE)
    assert (describe(opening)["stage"], heard) == ("Reading weights.", ["Reading weights."])
    pieces = zerogpu.producer(opening)(ask(max_new_tokens=2))
    assert next(pieces) == ()
    go.set()
    assert [piece for piece in pieces if piece != ()]
    assert describe(opening)["ready"] is True


def test_a_model_that_cannot_be_loaded_ends_the_requests_that_wait_for_it(
    tiny_pack_dir: Path,
) -> None:
    def opener(_: object) -> Engine:
        raise PackError("base: the file is missing.")

    opening = Opening(load_pack(tiny_pack_dir), opener, silent)
    opening.start()
    with pytest.raises(PackError, match="the file is missing"):
        opening.wait()
    with pytest.raises(EngineError, match=r"could not be loaded: base: the file"):
        list(zerogpu.producer(opening)(ask()))
    assert describe(opening)["stage"] == "The model could not be loaded."


def test_the_program_ends_in_one_line_where_the_page_is_up_and_the_model_is_not(
    tiny_base: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_base, base)
    pack = tiny.write_pack(tmp_path, base)
    (base / "config.json").unlink()
    command = [sys.executable, "app.py", "--pack", str(pack), "--port", str(free_port())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "while the model loads" in done.stdout
    assert [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in done.stderr


def test_a_request_knows_how_many_are_before_it(tiny_engine: Engine) -> None:
    scheduler = Scheduler({}, 8)
    crowd = [tiny_engine._processor.sequence(ask(seed=k)) for k in range(4)]
    for sequence in crowd:
        scheduler.add(sequence)
    assert ahead(scheduler, crowd) == [0, 1, 2, 3]
    scheduler.schedule()  # the first is being read now
    assert ahead(scheduler, crowd) == [0, 1, 2, 3]
    scheduler.finish_prefill()
    assert ahead(scheduler, crowd) == [0, 0, 1, 2]


def ahead(scheduler: Scheduler, crowd: list[Sequence]) -> list[int]:
    return [scheduler.ahead(sequence) for sequence in crowd]


def test_a_stream_that_runs_has_nobody_before_it(tiny_engine: Engine) -> None:
    with tiny_engine.submit(ask()) as stream:
        next(iter(stream))
        assert stream.ahead() == 0
