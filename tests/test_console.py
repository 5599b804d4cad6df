"""Terminals that are not UTF-8, readers that go away, and bytes on stdin."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mpd_core.cli import main
from mpd_core.console import CLOSED_PIPE, typed
from mpd_core.engine import Engine
from mpd_core.engine.plan import METHOD_HELP, method_names
from mpd_core.errors import RequestError
from mpd_core.packs import load_pack
from mpd_core.request import GenerationRequest, Message, Sampling
from mpd_core.trace import Trace

PROMPT = "Erzähl 日本 😀"
OPTIONS = ["--max-new-tokens", "30", "--temperature", "1", "--seed", "3"]


@pytest.fixture(scope="module")
def trace(tiny_pack_dir: Path) -> Trace:
    """What the command line should show."""
    sampling = Sampling(max_new_tokens=30, temperature=1.0, seed=3)
    request = GenerationRequest((Message("user", PROMPT),), "AAA", sampling=sampling)
    engine = Engine.open(load_pack(tiny_pack_dir))
    try:
        return engine.generate(request)
    finally:
        engine.close()


def run(
    patch: pytest.MonkeyPatch,
    pack: Path,
    *arguments: str,
    given: bytes = b"",
    encoding: str = "utf-8",
) -> tuple[int, bytes]:
    """The command's exit code and what it wrote to a terminal of this encoding."""
    written = io.BytesIO()
    patch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding, newline="\n"))
    # As Python opens it on anything but Windows: line ends as they are.
    typed_in = io.TextIOWrapper(io.BytesIO(given), encoding="utf-8", newline="\n")
    patch.setattr(sys, "stdin", typed_in)
    code = main(["generate", "--pack", str(pack), *OPTIONS, *arguments])
    return code, written.getvalue()


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_what_a_terminal_cannot_write_is_escaped(
    tiny_pack_dir: Path, trace: Trace, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    assert not trace.text.isascii()
    code, shown = run(monkeypatch, tiny_pack_dir, PROMPT, encoding=encoding)
    assert (code, shown) == (0, trace.text.encode(encoding, "backslashreplace") + b"\n")
    code, listed = run(monkeypatch, tiny_pack_dir, PROMPT, "--json", encoding=encoding)
    read = json.loads(listed.decode("ascii"))
    assert (code, read["text"], read["prompt"]) == (0, trace.text, PROMPT)


@pytest.mark.parametrize("command", [["generate", "hi"], ["generate", "--help"]])
def test_a_reader_that_goes_away_ends_the_command_quietly(
    tiny_pack_dir: Path, command: list[str]
) -> None:
    """In a real process: Python itself complains at its end of what nobody read."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "mpd_core", *command],
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
        env={**os.environ, "MPD_PACK": str(tiny_pack_dir)},
    )
    os.close(writer)
    assert done.returncode == CLOSED_PIPE
    assert b"Traceback" not in done.stderr
    assert b"BrokenPipe" not in done.stderr


@pytest.mark.parametrize(
    ("given", "prompt"),
    [
        (b"\xef\xbb\xbfhi\r\n", "hi"),
        (b"    one\r\n\ttwo\r\n\r\n", "    one\n\ttwo\n"),
        ("日本\u2028x".encode(), "日本\u2028x"),
    ],
)
def test_a_prompt_on_stdin_is_what_the_file_says(
    tiny_pack_dir: Path, monkeypatch: pytest.MonkeyPatch, given: bytes, prompt: str
) -> None:
    _, listed = run(monkeypatch, tiny_pack_dir, "-", "--json", given=given)
    assert len(listed.decode("utf-8").splitlines()) == 1  # to which U+2028 ends a line
    assert json.loads(listed)["prompt"] == prompt


def test_a_prompt_that_is_no_text_is_one_line(
    tiny_pack_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, tiny_pack_dir, "-", given=b"caf\xe9") == (2, b"")
    error = capsys.readouterr().err
    assert error.startswith("error: The prompt is not valid text")
    assert error.count("\n") == 1


def test_bytes_that_the_locale_does_not_know_are_read_as_utf8() -> None:
    assert typed("日本 😀".encode().decode("ascii", "surrogateescape")) == "日本 😀"
    for bad in ("\udce9", "\ud83d"):
        with pytest.raises(RequestError, match="not valid text"):
            typed(bad)


def test_the_help_names_every_method() -> None:
    named = METHOD_HELP.removesuffix(".").replace(" or ", ", ").split(", ")
    pack = load_pack("smollm2-135m")
    known = {name if ":" not in name else "expert:NAME" for name in method_names(pack)}
    assert set(named) == known | {"top-1", "static", "static:0.5,0.3,0.2"}


def test_a_container_that_is_stopped_ends_as_with_ctrl_c(
    tiny_pack_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first process hears only the signals that it has asked for."""

    def serve(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    monkeypatch.setattr("mpd_core.ui.server.serve", serve)
    monkeypatch.setattr("mpd_core.console.GRACE_S", 3600.0)  # this process is to live on
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as it is to process 1
    try:
        assert main(["serve", "--pack", str(tiny_pack_dir)]) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
