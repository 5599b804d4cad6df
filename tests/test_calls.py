"""``/generate`` over HTTP as strangers call it: every fault is answered in a sentence."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fresh_python import ROOT
from tests.patience import PATIENCE

CALL = "/gradio_api/call/generate"
MOST = 5000
SERVER = """
import sys
from mpd_core.packs import load_pack
from mpd_core.ui import calls
from mpd_core.ui.server import launch
from tests.browser.scripted import ScriptedEngine

port, calls.MOST_BYTES = map(int, sys.argv[1:])
engine = ScriptedEngine(load_pack(), pause=0.0)
print(launch(engine, host="127.0.0.1", port=port)[1], flush=True)
sys.stdin.read()
"""
GIVEN = ["Hi", "up0", "", "", "mpd", 4, 0.0, 1.0, 0]


@pytest.fixture(scope="module")
def client(tiny_pack_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Of a server in a process of its own, since Gradio leaves event loops behind."""
    log = tmp_path_factory.mktemp("log") / "stderr"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with log.open("w") as errors:
        server = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(port), str(MOST)],
            cwd=ROOT,
            env={**os.environ, "MPD_PACK": str(tiny_pack_dir)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    with server:
        assert server.stdout
        url = server.stdout.readline().strip()
        with httpx.Client(base_url=url, timeout=10 * PATIENCE) as client:
            yield client
        server.kill()
    assert "Traceback" not in log.read_text()


def last(client: httpx.Client, *values: Any) -> tuple[str, Any]:
    """The kind and the data of a call's last event."""
    event = client.post(CALL, json={"data": list(values)}).json()["event_id"]
    kind, data = client.get(f"{CALL}/{event}").text.strip().split("\n\n")[-1].split("\n", 1)
    return kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))


def test_a_call_is_answered_with_its_trace(client: httpx.Client) -> None:
    kind, data = last(client, *GIVEN)
    assert (kind, data[0]["prompt"], data[0]["preference"]) == ("complete", "Hi", "A--")


def test_values_beyond_the_arguments_are_refused(client: httpx.Client) -> None:
    """Who thinks that there are more of them means something else by the others, too."""
    kind, data = last(client, *GIVEN, *[None] * 20)
    assert kind == "error"
    assert data["error"].startswith("29 values came, and there are ")


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("call/nothing", {"data": []}, 404, "no endpoint of this name"),
        ("call/v2/nothing", {}, 404, "no endpoint of this name"),
        ("call/v2/generate", {"instruction": "Hi", "temprature": 1}, 422, "`temprature` is not"),
        ("call/v2/generate", {"dim0": "up0"}, 422, "required argument: instruction"),
        ("run/generate", {"data": GIVEN}, 404, "join the queue"),
        ("api/generate", {"data": GIVEN}, 404, "join the queue"),
    ],
)
def test_wrong_calls_are_answered_in_a_sentence(
    client: httpx.Client, path: str, body: object, status: int, said: str
) -> None:
    answer = client.post(f"/gradio_api/{path}", json=body)
    assert answer.status_code == status
    assert said in answer.json()["detail"]


def test_the_stream_of_no_call_is_not_begun(client: httpx.Client) -> None:
    for path in (f"{CALL}/deadbeef", "/gradio_api/call/v2/generate/deadbeef"):
        assert client.get(path).status_code == 404


def test_bodies_beyond_all_bounds_are_refused(client: httpx.Client) -> None:
    """Whether they say how long they are or not: they would be held in memory."""
    long = json.dumps({"data": ["a" * 2 * MOST, *GIVEN[1:]]}).encode()
    told = {"Content-Type": "application/json"}
    answer = client.post(CALL, content=long, headers=told)
    assert (answer.status_code, answer.json()["detail"][:13]) == (413, "The body has ")
    pieces = (long[i : i + 100] for i in range(0, len(long), 100))
    assert client.post(CALL, content=pieces, headers=told).status_code == 400
