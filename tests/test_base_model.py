"""The real SmolLM2-135M-Instruct: what a visitor of the default pack gets."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from mpd_core.cli.soak import make_requests
from mpd_core.engine import Engine
from mpd_core.engine.reference import ReferenceDecoder
from mpd_core.packs import load_pack
from mpd_core.request import Message
from tests.test_crowd import assert_equal
from tests.test_engine import ask, assert_same

pytestmark = pytest.mark.base


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = Engine.open(load_pack("smollm2-135m"))
    yield engine
    engine.close()


def test_engine_equals_reference(engine: Engine) -> None:
    reference = ReferenceDecoder(engine.pack)
    requests = [
        ask("Explain photosynthesis.", "AAA", max_new_tokens=8),
        ask("What is 你好? 😀", "BBB", temperature=0.8, top_p=0.9, seed=1, max_new_tokens=6),
        ask("Hi!", "-B-", space="logit", temperature=0.7, seed=2, max_new_tokens=6),
        ask("Name a colour.", "BAB", "prompting", repetition_penalty=1.2, max_new_tokens=6),
    ]
    streams = [engine.submit(request) for request in requests]
    for request, stream in zip(requests, streams, strict=True):
        assert_same(tuple(stream), tuple(reference.decode(request)))


def test_alone_and_in_a_crowd() -> None:
    """The default pack, with adapters, a trained PCM and a soup: the same to the bit."""
    engine = Engine.open(load_pack())
    requests = make_requests(engine, 8, seed=3)
    requests = [replace(r, sampling=replace(r.sampling, max_new_tokens=10)) for r in requests]
    alone = [engine.generate(request).steps for request in requests]
    streams = [engine.submit(request) for request in requests]
    for stream, expected in zip(streams, alone, strict=True):
        assert_equal(engine, tuple(stream), expected)
    engine.close()


def test_it_answers_and_ends_by_itself(engine: Engine) -> None:
    trace = engine.generate(ask("What is the capital of France?", "-A-", max_new_tokens=100))
    assert "Paris" in trace.text
    assert trace.finish_reason == "stop"
    assert trace.steps[-1].text == ""  # the end-of-turn token says nothing


def test_conversation_remembers(engine: Engine) -> None:
    first = ask("My name is Zoltan. Say hello.", "-A-", "vanilla", max_new_tokens=30)
    reply = engine.generate(first).text
    turns = (*first.messages, Message("assistant", reply), Message("user", "What is my name?"))
    second = engine.generate(type(first)(turns, "-A-", "vanilla", sampling=first.sampling))
    assert "Zoltan" in second.text


def test_emoji_and_cjk_stream_whole(engine: Engine) -> None:
    trace = engine.generate(
        ask(
            "Repeat exactly: 你好 😀🎉 こんにちは",
            "--A",
            "vanilla",
            temperature=0.7,
            max_new_tokens=60,
        )
    )
    ids = [step.token_id for step in trace.steps]
    assert "".join(step.text for step in trace.steps) == trace.text
    assert trace.text == engine._processor.tokenizer.decode(ids, skip_special_tokens=True)
    assert any(not step.text for step in trace.steps)  # characters that took several tokens
    assert max(map(ord, trace.text)) > 0x3000


def test_experts_disagree(engine: Engine) -> None:
    """Prompted poles are different experts: somewhere they differ clearly."""
    trace = engine.generate(ask("Explain photosynthesis.", "ABA", max_new_tokens=24))
    assert max(step.disagreement for step in trace.steps) > 0.05


@pytest.mark.usefixtures("engine")
def test_second_start_is_quick() -> None:
    """Model ready in under ten seconds of processor time once the cache is warm."""
    code = (
        "import time; t = time.process_time()\n"
        "from mpd_core.engine import Engine; from mpd_core.packs import load_pack\n"
        "Engine.open(load_pack('smollm2-135m')); print(time.process_time() - t)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert float(done.stdout) < 10
