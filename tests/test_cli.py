"""The command line: traces, streaming, and one-line errors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mpd_core.analysis import trace_from_dict
from mpd_core.cli import main

Capture = pytest.CaptureFixture[str]


def test_json_is_one_trace(tiny_pack_dir: Path, capsys: Capture) -> None:
    options = "--preference AAB --max-new-tokens 12 --seed 5 --temperature 1 --json"
    assert main(["generate", "hi 😀", "--pack", str(tiny_pack_dir), *options.split()]) == 0
    trace = trace_from_dict(json.loads(capsys.readouterr().out))
    assert (trace.preference, trace.poles) == ("AAB", ("up0", "up1", "down2"))
    assert (trace.pack, trace.method, trace.seed) == ("tiny", "mpd", 5)
    assert len(trace.hashes["pack.toml"]) == 64
    assert 0 < len(trace.steps) <= 12
    assert trace.timing.total_s >= trace.timing.first_token_s > 0


def test_text_is_the_traces_text(tiny_pack_dir: Path, capsys: Capture) -> None:
    command = ["generate", "hi", "--pack", str(tiny_pack_dir), "--max-new-tokens", "20"]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert main([*command, "--json"]) == 0
    assert text == json.loads(capsys.readouterr().out)["text"] + "\n"


def test_methods_and_spaces_differ(tiny_pack_dir: Path, capsys: Capture) -> None:
    texts = set()
    for extra in (
        "",
        "--method vanilla",
        "--method prompting",
        "--method expert:up0",
        "--space logit",
        "--space strength --strength 1.5 --settled 0.5 --fade 3 --plausibility 0.1",
    ):
        assert main(["generate", "hi", "--pack", str(tiny_pack_dir), *extra.split()]) == 0
        texts.add(capsys.readouterr().out)
    assert len(texts) >= 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", ""], "The prompt is empty"),
        (["generate", "hi", "--preference", "AAZ"], "'Z' is no pole"),
        (["generate", "hi", "--preference", "AAAA"], "has 4 letters"),
        (["generate", "hi", "--temperature", "nan"], "temperature is nan"),
        (["generate", "hi", "--temperature", "-1"], "temperature is -1"),
        (["generate", "hi", "--max-new-tokens", "0"], "max_new_tokens is 0"),
        (["generate", "hi", "--max-new-tokens", "9" * 30], "max_new_tokens is 9"),
        (["generate", "hi", "--top-p", "1.5"], "top_p is 1.5"),
        (["generate", "hi", "--method", "magic"], "Unknown method"),
        (["generate", "x" * 200_000], "over 100,000 characters"),
        (["generate", "hi", "--device", "tpu"], "'tpu' is not available"),
        (["generate", "hi", "--space", "astral"], "Invalid value"),
        (["generate", "hi", "--strength", "-1"], "strength is -1"),
        (["generate"], "Missing argument"),
        (["dance"], "No such command"),
    ],
)
def test_mistakes_are_one_line(
    tiny_pack_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.setenv("MPD_PACK", str(tiny_pack_dir))
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err


def test_a_prompt_that_is_too_long(tiny_pack_dir: Path, capsys: Capture) -> None:
    """Only the tokenizer can tell, so progress comes before the line."""
    assert main(["generate", "word " * 5000, "--pack", str(tiny_pack_dir)]) == 2
    *progress, line = capsys.readouterr().err.splitlines()
    assert line.startswith("error: The conversation has")
    assert all("error" not in sentence for sentence in progress)


def test_a_broken_pack_is_one_line_in_a_real_process(tmp_path: Path) -> None:
    (tmp_path / "pack.toml").write_text("schema_version = 2\n")
    command = [sys.executable, "-m", "mpd_core", "generate", "hi", "--pack", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "schema_version" in done.stderr
    assert done.stderr.count("\n") == 1
