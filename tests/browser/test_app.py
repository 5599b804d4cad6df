"""The real program over the tiny pack: ``app.py`` as Spaces starts it, and ``/generate``."""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from mpd_core.analysis import trace_from_dict
from mpd_core.request import Sampling
from tests import tiny
from tests.browser.conftest import ROOT, VIEW, Visitor, running_app

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The app over a tiny model that likes to say hostile things."""
    base = tiny.save_base(tmp_path_factory.mktemp("base"), hostile=True)
    with running_app(tiny.write_pack(tmp_path_factory.mktemp("pack"), base)) as url:
        yield url


@pytest.fixture(scope="module")
def client(app: str) -> Iterator[Client]:
    client = Client(app, verbose=False)
    yield client
    client.close()


def test_strip_and_map_of_a_real_reply(app: str, visit: Callable[..., Visitor]) -> None:
    visitor = visit(app)
    run = visitor.run("Hello")
    count = int(visitor.view.get_attribute("data-count") or 0)
    assert count == visitor.strip(run).locator(".tok").count() > 0
    visitor.wait_for_map()
    assert visitor.page.locator(".mpd-heat").get_attribute("data-rows") == "3"
    assert "tokens/s" in visitor.page.locator(".mpd-summary").inner_text()


def test_hostile_tokens_of_a_real_model_are_inert(app: str, visit: Callable[..., Visitor]) -> None:
    """Its own vocabulary holds markup, template code and scripts; the visitor checks for strays."""
    visitor = visit(app)
    text = visitor.text(visitor.run(tiny.HOSTILE[1]))
    assert any(hostile in text for hostile in tiny.HOSTILE)
    visitor.page.locator(".tok").first.click()
    assert visitor.page.evaluate("window.hacked") is None
    assert visitor.page.locator("#view img, #view script, #view a").count() == 0


@pytest.mark.base
def test_stop_ends_a_reply_at_once(real_app: str, visit: Callable[..., Visitor]) -> None:
    """Pressed by the page at its first token: a browser may be slower than a reply."""
    visitor = visit(f"{real_app}/?method=vanilla&max_new_tokens=512")  # which tells long stories
    visitor.page.evaluate(
        """view => {
          const node = document.querySelector(view);
          new MutationObserver((_, observer) => {
            if (node.dataset.done === "true" || node.dataset.count === "0") return;
            observer.disconnect();
            document.querySelector("#stop").click();
          }).observe(node, {attributes: true});
        }""",
        VIEW,
    )
    run = visitor.run("Write a long story about a lighthouse.")
    assert visitor.page.locator(".mpd-end").inner_text() == "Stopped."
    assert 0 < int(visitor.view.get_attribute("data-count") or 0) < 512
    kept = visitor.text(run)
    visitor.page.wait_for_timeout(200)
    assert kept
    assert visitor.text(run) == kept


@pytest.mark.base
def test_two_visitors_at_once_read_what_each_reads_alone(
    real_app: str, visit: Callable[..., Visitor]
) -> None:
    prompts = ("Name three fruits.", "What is the capital of France?")
    visitors = [visit(real_app) for _ in prompts]
    alone = [v.text(v.run(prompt)) for v, prompt in zip(visitors, prompts, strict=True)]
    for visitor in visitors:
        visitor.page.click("#new")
        visitor.page.wait_for_selector(".mpd-turn", state="detached")
    for visitor, prompt in zip(visitors, prompts, strict=True):
        visitor.page.fill("#prompt textarea", prompt)
    for visitor in visitors:
        visitor.page.click("#run")
    together = [visitor.text(visitor.wait("")) for visitor in visitors]
    assert together == alone
    assert "Paris" in together[1]


def test_generate_streams_and_ends_with_a_trace(client: Client) -> None:
    job = client.submit(
        instruction="Hello", dim0="up0", dim2="down2", temperature=1.0,
        max_new_tokens=24, seed=3, api_name="/generate",
    )  # fmt: skip
    *partial, last = list(job)
    trace = trace_from_dict(last)
    assert all(value["done"] is False for value in partial)
    assert all(trace.text.startswith(value["text"].rstrip("\ufffd")) for value in partial)
    assert trace.preference == "A-B"
    assert trace.text == "".join(step.text for step in trace.steps)
    assert all(math.isclose(sum(s.weights.values()), 1, abs_tol=1e-6) for s in trace.steps)
    assert json.dumps(last, allow_nan=False)


def test_generate_is_the_only_public_endpoint(client: Client) -> None:
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    assert list(endpoints) == ["/generate"]
    names = [p["parameter_name"] for p in endpoints["/generate"]["parameters"]]
    assert names[:4] == ["instruction", "dim0", "dim1", "dim2"]
    assert names[4:9] == ["method", "max_new_tokens", "temperature", "top_p", "seed"]
    merging = {"space", "strength", "settled", "fade", "plausibility"}
    assert {field.name for field in fields(Sampling)} | merging <= set(names)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"instruction": " "}, "The prompt is empty"),
        ({"dim0": "genius"}, "'genius' is no pole of dimension 'dim0'"),
        ({"method": "magic"}, "magic"),
        ({"max_new_tokens": 10**9}, "max_new_tokens"),
        ({"max_new_tokens": -1}, "max_new_tokens"),
        ({"temperature": -1.0}, "temperature"),
        ({"top_p": 2.0}, "top_p"),
        ({"seed": -5}, "seed"),
    ],
)
def test_generate_explains_bad_input(
    client: Client, given: dict[str, object], message: str
) -> None:
    with pytest.raises(AppError, match=message):
        client.predict(**{"instruction": "Hi", "dim0": "up0", **given}, api_name="/generate")


def test_taken_port_is_one_line_and_exit_code_2(tiny_pack_dir: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "app.py", "--pack", str(tiny_pack_dir)],
            cwd=ROOT,
            env={**os.environ, "GRADIO_SERVER_PORT": port},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert f"Port {port} is taken" in done.stderr
    assert "--port" in done.stderr
    assert "Traceback" not in done.stderr
