"""A reward server that fails: asked again where that may help, and an error in one line."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from mpd_core.errors import EngineError
from mpd_core.training.scoring.reward_models import TRIES, RemoteReward

Answer = tuple[int, str]


class Server:
    """Gives its answers one after the other, then replies' lengths; counts questions."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.asked = 0
        self.url = ""


@pytest.fixture
def server() -> Iterator[Server]:
    said = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            said.asked += 1
            good = json.dumps({"scores": [len(reply) for reply in body["replies"]]})
            status, text = said.answers.pop(0) if said.answers else (200, good)
            self.send_response(status)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    said.url = f"http://127.0.0.1:{http.server_port}/score"
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield said
    http.shutdown()
    http.server_close()


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The client's own pauses alone, and none of them kept."""
    found, sleep = list[float](), asyncio.sleep

    async def noted(seconds: float) -> None:
        found.append(seconds)
        await sleep(0)

    watched = SimpleNamespace(**{**vars(asyncio), "sleep": noted})
    monkeypatch.setattr("mpd_core.remote.client.asyncio", watched)
    return found


def ask(server: Server) -> list[float]:
    reward = RemoteReward(server.url)
    try:
        return reward(["p", "q"], ["ab", "abc"])
    finally:
        reward.close()


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 413, 422])
def test_what_another_try_cannot_mend_is_told_at_once(server: Server, status: int) -> None:
    server.answers = [(status, "no")] * 5
    with pytest.raises(EngineError, match=rf"{server.url} .*status {status}: no.*Check it"):
        ask(server)
    assert server.asked == 1


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_what_may_pass_is_asked_again(server: Server, status: int, pauses: list[float]) -> None:
    server.answers = [(status, "later")] * (TRIES - 1)
    assert ask(server) == [2.0, 3.0]
    assert server.asked == TRIES
    server.answers = [(status, "later")] * TRIES
    pauses.clear()
    with pytest.raises(EngineError, match=f"status {status}"):
        ask(server)
    assert server.asked == 2 * TRIES
    assert len(pauses) == TRIES - 1  # none after the last


BAD = (
    "[null, 1]",
    "[true, 1]",
    '["1", 1]',
    "[[1], 1]",
    "[NaN, 1]",
    "[1e999, 1]",
    f"[1{'0' * 400}, 1]",
)
FEW = ('{"scores": [1]}', '{"scores": {}}', "[1, 2]", "null")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        *((f'{{"scores": {bad}}}', "sent a score that is not finite") for bad in BAD),
        *((few, "must answer with 2 scores") for few in FEW),
        *((page, "sent no JSON .Expecting value") for page in ("", "<html>")),
    ],
)
def test_what_is_no_score_is_an_error(server: Server, text: str, why: str) -> None:
    server.answers = [(200, text)] * TRIES
    with pytest.raises(EngineError, match=rf"server {server.url} {why}.*\. Check it and resume"):
        ask(server)
    assert server.asked == TRIES


def test_nobody_there_is_an_error() -> None:
    reward = RemoteReward("http://127.0.0.1:9/score", timeout_s=2.0)
    with pytest.raises(
        EngineError, match=r"The reward server http://127\.0\.0\.1:9/score cannot be reached .+"
    ):
        reward(["p"], ["r"])
    reward.close()


def test_a_key_that_is_named_must_be_there() -> None:
    with pytest.raises(EngineError, match="variable MPD_NOT_SET is not set"):
        RemoteReward("http://127.0.0.1:9/score", "MPD_NOT_SET")
