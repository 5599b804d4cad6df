"""Remote experts on a server that is slow, fails, lies, breaks off or dies."""

from __future__ import annotations

import asyncio
import subprocess
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mpd_core.packs import RemoteTable
from mpd_core.remote import client, exchange
from mpd_core.remote.expert import RemoteError, RemoteExpert
from tests.patience import PATIENCE
from tests.remote_process import KEY, PROMPTS, RemoteServer, serve

pytest_plugins = ["tests.remote_fixtures"]


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FIRST_PAUSE_S", 0.02)


LIES: dict[str, tuple[dict[str, Any], str]] = {
    "missing choice": ({"name": "missing"}, "3 choices for 4 prompts"),
    "same index": ({"name": "same_index"}, "4 choices for 4 prompts"),
    "word": ({"name": "key", "key": "the"}, "instead of token_id:N"),
    "outside": ({"name": "key", "key": "token_id:99999"}, "listed token 99999"),
    "NaN": ({"name": "value", "value": "NaN"}, "'nan'"),
    "positive": ({"name": "value", "value": "0.5"}, "'0.5'"),
    "above one": ({"name": "above_one"}, "sum to 19.8"),
    "twice": ({"name": "twice"}, "twice"),
    "few": ({"name": "few"}, "listed 10 tokens of the 20"),
    "least likely": ({"name": "least_likely"}, "likeliest"),
    "no logprobs": ({"name": "no_logprobs"}, "no log-probabilities"),
    "truncated": ({"name": "truncated"}, "not whole JSON"),
    "a page": ({"name": "body", "body": "<html>"}, "not whole JSON"),
    "compressed": ({"name": "gzip"}, "compressed"),
    "huge": ({"name": "huge", "megabytes": 70}, "more than 64 MB"),
    "redirect": ({"name": "status", "status": 307, "location": "/v1/completions"}, "redirects"),
    "400": ({"name": "status", "status": 400, "message": "a\nb" + "c" * 999}, "status 400: a bccc"),
    "401": ({"name": "status", "status": 401}, "refused the key .*api_key_env"),
    "404": ({"name": "status", "status": 404}, "model or the path"),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_and_refusals_end_at_once(
    remote_server: RemoteServer, spec: RemoteTable, vocab_size: int, lie: str
) -> None:
    """One attempt; one line that names the expert and the host; the next call is served."""
    fault, message = LIES[lie]
    remote_server.fault(**fault, times=1)
    with closing(RemoteExpert("friendly", spec, vocab_size)) as expert:
        with pytest.raises(RemoteError, match=message) as error:
            expert.log_probs(PROMPTS)
        assert len(remote_server.asked()) == 1
        assert len(expert.log_probs(PROMPTS)) == len(PROMPTS)
    text = str(error.value)
    assert text.startswith(f"Expert 'friendly' at {remote_server.host} ")
    assert "\n" not in text
    assert len(text) < 450
    assert KEY not in text


PASSING: dict[str, tuple[dict[str, Any], str]] = {
    "500": ({"name": "status", "status": 500}, "failed .status 500"),
    "503": ({"name": "status", "status": 503}, "overloaded"),
    "429": ({"name": "status", "status": 429, "retry_after": "0"}, "overloaded"),
    "hang up": ({"name": "hang_up"}, "broke off"),
    "dead": ({"name": "dead"}, "broke off"),
    "slow": ({"name": "slow", "seconds": 600.0}, "did not answer within 1 s"),
    "drip": ({"name": "drip"}, "did not answer within 1 s"),
}


@pytest.mark.parametrize("trouble", PASSING)
def test_passing_trouble_is_tried_again(
    remote_server: RemoteServer, spec: RemoteTable, vocab_size: int, trouble: str
) -> None:
    """Two failures and an answer; then failures to the end, in bounded time."""
    fault, message = PASSING[trouble]
    timeout = 1.0 if trouble in ("slow", "drip") else PATIENCE  # a good answer takes its time, too
    spec = spec.model_copy(update={"timeout_s": timeout})
    with closing(RemoteExpert("friendly", spec, vocab_size)) as expert:
        remote_server.fault(**fault, times=2)
        assert len(expert.log_probs(PROMPTS)) == len(PROMPTS)
        assert len(remote_server.asked()) == 3
        remote_server.fault(**fault)
        with pytest.raises(RemoteError, match=message):
            expert.log_probs(PROMPTS)
        assert len(remote_server.asked()) == 6


def test_retry_after_is_kept_or_given_up(
    remote_server: RemoteServer,
    spec: RemoteTable,
    vocab_size: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses, sleep = list[float](), asyncio.sleep

    async def noted(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(seconds)

    # Its own sleeping alone: other tests' servers may sleep in this process as well.
    watched = SimpleNamespace(**{**vars(asyncio), "sleep": noted})
    monkeypatch.setattr("mpd_core.remote.client.asyncio", watched)
    with closing(RemoteExpert("friendly", spec, vocab_size)) as expert:
        remote_server.fault("status", status=429, retry_after="1", times=1)
        start = time.monotonic()
        expert.log_probs(PROMPTS)
        assert time.monotonic() - start >= 1
        assert [pause for pause in pauses if pause >= 0.5] == [1.0]
        remote_server.fault("status", status=429, retry_after="120")
        pauses.clear()
        with pytest.raises(RemoteError, match="try again in 120 s"):
            expert.log_probs(PROMPTS)
        assert pauses == []


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("3", 3),
        ("", 0),
        ("soon", 0),
        ("-1", 0),
        ("Mon, 01 Jan 2001 00:00:00 GMT", 0),
        ("²", 0),
        (f"Mon, 01 Jan {10**30} 00:00:00 +{10**30}", 0),
    ],
)
def test_retry_after_values(value: str, seconds: float) -> None:
    assert exchange._retry_after(value) == seconds


def test_server_that_dies(tiny_base: Path) -> None:
    with serve(tiny_base) as server:
        spec = RemoteTable(url=server.url, model="base", timeout_s=5, retries=1)
        with closing(RemoteExpert("friendly", spec, 405)) as expert:
            assert len(expert.log_probs(PROMPTS)) == len(PROMPTS)
            server.kill()
            with pytest.raises(RemoteError, match="cannot be reached"):
                expert.log_probs(PROMPTS)


def test_tls_is_verified(tiny_base: Path, tmp_path: Path) -> None:
    pem, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
    command += " -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    try:
        subprocess.run(
            [*command.split(), "-keyout", key, "-out", pem],
            check=True,
            capture_output=True,
        )
    except FileNotFoundError:
        pytest.skip("openssl, which makes the certificate, is not installed")
    with serve(tiny_base, options=("--certificate", str(pem), str(key))) as server:
        spec = RemoteTable(url=server.url, model="base")
        with (
            closing(RemoteExpert("friendly", spec, 405)) as expert,
            pytest.raises(RemoteError, match=r"cannot be verified .*: name its authority"),
        ):
            expert.log_probs(PROMPTS)
        spec = spec.model_copy(update={"ca_file": pem})
        with closing(RemoteExpert("friendly", spec, 405)) as expert:
            assert len(expert.log_probs(PROMPTS)) == len(PROMPTS)
