"""The cache of converted bases: whole or not there, built once, and clear about its disk."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from mpd_core.errors import ModelSourceError
from mpd_core.sources import store
from tests.fresh_python import ROOT, in_python


@pytest.fixture(autouse=True)
def small_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MPD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(store, "MIN_FREE_BYTES", 1_000_000)


def put(target, _scratch):
    (target / "weights").write_bytes(b"whole")


@pytest.mark.parametrize("damage", ["shorten", "remove", "no manifest", "odd manifest"])
def test_a_broken_cache_is_redone(damage):
    folder = store.build_once("m", put, print)
    if damage == "shorten":
        (folder / "weights").write_bytes(b"who")
    elif damage == "remove":
        (folder / "weights").unlink()
    elif damage == "no manifest":
        (folder / "manifest.json").unlink()
    else:
        (folder / "manifest.json").write_text("[]")
    assert not store.is_complete(folder)
    assert store.build_once("m", put, print) == folder
    assert (folder / "weights").read_bytes() == b"whole"


def test_an_interrupted_conversion_is_redone_and_leaves_nothing(tmp_path):
    code = """if True:
        import os
        from mpd_core.sources.store import build_once
        def die(target, scratch):
            (target / "weights").write_bytes(b"who")
            os._exit(0)
        build_once("m", die, print)"""
    in_python(code)
    assert list((tmp_path / "cache").glob("*.part-*"))
    folder = store.build_once("m", put, print)
    assert (folder / "weights").read_bytes() == b"whole"
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == [
        f"m-v{store.LAYOUT}",
        f"m-v{store.LAYOUT}.lock",
    ]


def test_two_processes_build_once(tmp_path):
    code = """if True:
        import sys, time
        from pathlib import Path
        from mpd_core.sources import store
        store.MIN_FREE_BYTES = 1
        waits = Path(sys.argv[1])
        def slow(target, scratch):
            while not waits.exists():  # until the other one has come
                time.sleep(0.01)
            (target / "weights").write_bytes(b"whole")
            print("built")
        def tell(text):
            print(text)
            if "Another process" in text:
                waits.touch()
        store.build_once("m", slow, tell)"""
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "waits")],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    said = [run.communicate()[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert sorted("built" in text for text in said) == [False, True]
    assert any("Another process" in text for text in said)


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("No space left on device")],
)
def test_a_disk_that_fills_up_is_a_clear_error(error, tmp_path):
    def fail(_target, _scratch):
        raise error

    with pytest.raises(ModelSourceError, match=r"No disk space.*MPD_CACHE"):
        store.build_once("m", fail, print)
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_an_unwritable_cache_names_the_variable(tmp_path, monkeypatch):
    (tmp_path / "file").touch()  # root may write in any folder, but not in a file
    monkeypatch.setenv("MPD_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ModelSourceError, match=r"Cannot write.*MPD_CACHE"):
        store.build_once("m", put, print)


def test_where_the_cache_lies(tmp_path, monkeypatch):
    assert store.cache_root() == tmp_path / "cache"
    monkeypatch.delenv("MPD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert store.cache_root() == tmp_path / "xdg" / "mpd-studio"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert store.cache_root() == Path.home() / ".cache" / "mpd-studio"
