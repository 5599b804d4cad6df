"""Remote experts on an honest server: a real model behind HTTP in another process."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from mpd_core.packs import RemoteTable
from mpd_core.remote.expert import RemoteError, RemoteExpert
from tests.patience import PATIENCE
from tests.remote_process import KEY, PROMPTS, RemoteServer

pytest_plugins = ["tests.remote_fixtures"]

NAMES = ("base", "one", "two", "three")


@pytest.fixture(scope="module")
def expected(tiny_base: Path, remote_adapters: dict[str, Path]) -> dict[str, Tensor]:
    """Name to the local model's log-probabilities after each prompt, [B, V]."""
    tables = {}
    for name, folder in (("base", None), *remote_adapters.items()):
        model = AutoModelForCausalLM.from_pretrained(tiny_base).eval()
        model = PeftModel.from_pretrained(model, folder) if folder else model
        with torch.inference_mode():
            rows = [model(torch.tensor([p])).logits[0, -1].log_softmax(-1) for p in PROMPTS]
        tables[name] = torch.stack(rows)
    return tables


@pytest.mark.parametrize("name", NAMES)
def test_whole_vocabulary_equals_the_local_model(
    remote_server: RemoteServer, spec: RemoteTable, expected: dict[str, Tensor], name: str
) -> None:
    vocab_size = expected[name].shape[-1]
    spec = spec.model_copy(update={"model": name, "top_k": vocab_size})
    with closing(RemoteExpert("friendly", spec, vocab_size)) as expert:
        answers = expert.log_probs(PROMPTS)
    for answer, local in zip(answers, expected[name], strict=True):
        torch.testing.assert_close(answer.log_probs, local, atol=1e-4, rtol=0)
        assert answer.missing < 1e-4
    [asked] = remote_server.asked()  # all prompts in one call
    assert asked["prompt"] == PROMPTS
    assert asked["model"] == name


@pytest.mark.parametrize("top_k", [1, 20, 100])
def test_top_k_is_exact_where_listed(
    spec: RemoteTable, expected: dict[str, Tensor], top_k: int
) -> None:
    local = expected["one"]
    spec = spec.model_copy(update={"top_k": top_k})
    with closing(RemoteExpert("friendly", spec, local.shape[-1])) as expert:
        answers = expert.log_probs(PROMPTS)
    for answer, row in zip(answers, local, strict=True):
        assert answer.listed.tolist() == row.topk(top_k).indices.sort().values.tolist()
        torch.testing.assert_close(
            answer.log_probs[answer.listed], row[answer.listed], atol=1e-4, rtol=0
        )
        assert answer.missing == pytest.approx(
            float(1 - row.topk(top_k).values.exp().sum()), abs=1e-4
        )
        assert answer.log_probs.exp().sum() == pytest.approx(1, abs=1e-5)
        assert answer.log_probs.argmax() == row.argmax()


def test_choices_in_any_order(
    remote_server: RemoteServer, spec: RemoteTable, expected: dict[str, Tensor]
) -> None:
    remote_server.fault("shuffled")
    with closing(RemoteExpert("friendly", spec, expected["one"].shape[-1])) as expert:
        answers = expert.log_probs(PROMPTS)
    best = [int(answer.log_probs.argmax()) for answer in answers]
    assert best == expected["one"].argmax(-1).tolist()


def test_key_is_sent_and_never_shown(
    remote_server: RemoteServer,
    spec: RemoteTable,
    vocab_size: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with closing(RemoteExpert("friendly", spec, vocab_size)) as expert:
        expert.log_probs(PROMPTS)
        assert KEY not in repr(expert) + repr(spec)
    assert remote_server.asked()[-1]["authorization"] == f"Bearer {KEY}"
    monkeypatch.setenv("MPD_TEST_KEY", "sk-wrong")  # this server's refusal repeats the key
    with (
        closing(RemoteExpert("friendly", spec, vocab_size)) as expert,
        pytest.raises(RemoteError, match=r"401: Unauthorized: Bearer \*\*\*") as error,
    ):
        expert.log_probs(PROMPTS)
    assert "sk-wrong" not in str(error.value)


def test_no_part_of_the_key_is_shown(
    remote_server: RemoteServer, spec: RemoteTable, vocab_size: int
) -> None:
    """Not where the server's message is cut in the middle of it either."""
    remote_server.fault("status", status=400, message="x" * 190 + KEY)
    with (
        closing(RemoteExpert("friendly", spec, vocab_size)) as expert,
        pytest.raises(RemoteError, match=r"x\*\*\*") as error,
    ):
        expert.log_probs(PROMPTS)
    assert KEY[:4] not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"url": "ftp://host/v1"}, "no usable url"),
        ({"url": "host:8000/v1"}, "no usable url"),
        ({"url": "http://user:secret@host/v1"}, "no usable url"),
        ({"url": "http://host:port/v1"}, "no usable url"),
        ({"api_key_env": "MPD_NOT_SET"}, "environment variable MPD_NOT_SET is not set"),
        ({"api_key_env": "MPD_BAD"}, "MPD_BAD holds characters"),
        ({"url": "https://host/v1", "ca_file": "/nowhere.pem"}, "PEM"),
    ],
)
def test_specification_that_cannot_work(
    change: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPD_BAD", "secret\r\nX: y")
    with pytest.raises(RemoteError, match=message) as error:
        RemoteExpert(
            "friendly", RemoteTable(**{"url": "http://host/v1", "model": "m"} | change), 10
        )
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("proxy", ["nonsense://host", "http://host:port"])
def test_proxy_that_cannot_work(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    with pytest.raises(RemoteError, match="proxy"):
        RemoteExpert("friendly", RemoteTable(url="https://host/v1", model="m"), 10)


def test_connections_are_kept_and_threads_may_share(
    remote_server: RemoteServer, spec: RemoteTable, expected: dict[str, Tensor]
) -> None:
    with closing(RemoteExpert("friendly", spec, expected["one"].shape[-1])) as expert:
        for _ in range(3):
            expert.log_probs(PROMPTS)
        assert len({asked["client"] for asked in remote_server.asked()}) == 1
        with ThreadPoolExecutor(8) as pool:
            rows = list(pool.map(lambda k: expert.log_probs([PROMPTS[k % 4]]), range(24)))
    best = [int(row[0].log_probs.argmax()) for row in rows]
    assert best == expected["one"].argmax(-1).tolist() * 6


def test_close_ends_a_call_under_way(
    remote_server: RemoteServer, spec: RemoteTable, vocab_size: int
) -> None:
    remote_server.fault("slow", seconds=600.0, times=1)
    expert, errors = RemoteExpert("friendly", spec, vocab_size), list[RemoteError]()

    def ask() -> None:
        try:
            expert.log_probs(PROMPTS)
        except RemoteError as error:
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    while not remote_server.asked():
        time.sleep(0.01)
    expert.close()
    expert.close()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert "was closed while it was asked" in str(errors[0])
    with pytest.raises(RemoteError, match="has been closed"):
        expert.log_probs(PROMPTS)
