"""A request's tokens do not depend on who else is being served: random joins, leaves, lengths."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mpd_core.engine import Engine, Stream
from mpd_core.models.linear import can_pack
from mpd_core.models.rows import RowModel
from mpd_core.packs import Pack, Precision, load_pack
from mpd_core.request import GenerationRequest, Message
from mpd_core.trace import StepRecord
from tests import tiny
from tests.patience import PATIENCE
from tests.test_engine import ask, assert_same

PROMPTS = ("Hi", "Why is the sky blue?", "explain 你好 😀 " * 12)
METHODS = ("mpd", "uniform", "soup", "prompting", "vanilla", "expert:down1")


KINDS: dict[str, tuple[int, bool, Precision]] = {
    "plain": (0, False, "auto"),
    "trunk": (1, False, "auto"),
    "fixed-shapes": (1, True, "auto"),
    "bf16": (1, False, "bf16"),
    "q8": (1, False, "q8"),
}
"""First layer with adapters, whether shapes are fixed, precision."""


@pytest.fixture(scope="module", params=KINDS.values(), ids=KINDS)
def engines(
    make_pack: Callable[..., Pack], request: pytest.FixtureRequest
) -> Iterator[tuple[Engine, Engine]]:
    """One for the crowd, and one that keeps no rows, where a request is really alone.

    Adapters of different ranks and a trained PCM, so that every kind of row takes part. At fixed
    shapes: the steps that a GPU captures as graphs, run one by one.
    """
    first_layer, graphs, precision = request.param
    if precision == "bf16" and not can_pack(torch.bfloat16):
        pytest.skip("this machine does not multiply bf16")
    options = {"prompt": "plain", "adapters": True, "pcm_trained": True}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mpd_core.engine.build.RowModel", partial(RowModel, graphs=graphs))
        pack = make_pack(**options, first_layer=first_layer)
        pair = [Engine.open(pack, precision=precision, kept_rows=rows) for rows in (12, 0)]
    lanes = pair[0].status()["models"].values()
    assert {lane["graphs"] for lane in lanes} == ({0} if graphs else {"off"})
    yield pair[0], pair[1]
    for engine in pair:
        engine.close()


@pytest.fixture
def engine(engines: tuple[Engine, Engine]) -> Engine:
    return engines[0]


@pytest.fixture
def lone(engines: tuple[Engine, Engine]) -> Engine:
    """Keeps nothing of requests that have ended."""
    return engines[1]


@st.composite
def requests(draw: st.DrawFn) -> GenerationRequest:
    return ask(
        draw(st.sampled_from(PROMPTS)),
        draw(st.sampled_from(["AAA", "BAB", "-BA", "A--", "BBB"])),
        draw(st.sampled_from(METHODS)),
        draw(st.sampled_from(["probability", "logit"])),
        temperature=draw(st.sampled_from([0.0, 0.7, 1.3])),
        top_p=draw(st.sampled_from([0.8, 1.0])),
        repetition_penalty=draw(st.sampled_from([1.0, 1.2])),
        dry_multiplier=draw(st.sampled_from([0.0, 0.8])),
        seed=draw(st.integers(0, 50)),
        max_new_tokens=draw(st.integers(1, 14)),
    )


def assert_equal(
    engine: Engine, steps: tuple[StepRecord, ...], expected: tuple[StepRecord, ...]
) -> None:
    """To the bit with packed weights; entropy and disagreement, which nothing depends on, and all
    with fp32 weights, to 1e-5."""
    assert_same(steps, expected, tolerance=1e-5)
    if not engine.info.precision.startswith("fp32"):
        for step, other in zip(steps, expected, strict=True):
            assert step.logprobs == other.logprobs
            assert step.weights == other.weights
            assert step.probability == other.probability


@given(data=st.data())
@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.generate),  # timing decides: a smaller example may not fail
)
def test_alone_and_in_a_crowd(engine: Engine, lone: Engine, data: st.DataObject) -> None:
    """Equal tokens, weights and log-probabilities, whenever each one comes and goes, and whoever
    was there before."""
    crowd = data.draw(st.lists(requests(), min_size=2, max_size=7))
    alone = [lone.generate(request).steps for request in crowd]
    streams: list[Stream] = []
    for request in crowd:
        streams.append(engine.submit(request))
        time.sleep(data.draw(st.sampled_from([0.0, 0.002, 0.01])))
        if data.draw(st.integers(0, 3)) == 0:
            engine.submit(ask(seed=len(streams), max_new_tokens=300)).cancel()
    for stream, expected in zip(streams, alone, strict=True):
        assert_equal(engine, tuple(stream), expected)


class Reading:
    """Counts the tokens of prompts that an engine's upper layers read."""

    def __init__(self, engine: Engine, patch: pytest.MonkeyPatch) -> None:
        self._count = 0
        self._forward = engine._runner.lanes["base"].forward
        patch.setattr(engine._runner.lanes["base"], "forward", self._counted)

    def _counted(self, inputs: Any, positions: Any, *rest: Any) -> Any:
        self._count += positions.numel() if positions.shape[1] > 1 else 0
        return self._forward(inputs, positions, *rest)

    def so_far(self) -> int:
        """Since it was asked last."""
        count, self._count = self._count, 0
        return count


def test_what_a_running_row_holds_is_not_computed_again(
    lone: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another preference of the same prompt: two of three experts come from the first's rows."""
    prompt = PROMPTS[2]
    first, second = (ask(prompt, code, max_new_tokens=n) for code, n in (("AAA", 40), ("AAB", 6)))
    alone, expected = (lone.generate(request).steps for request in (first, second))
    reading = Reading(lone, monkeypatch)
    running = lone.submit(first)
    next(iter(running))
    read_alone = reading.so_far()
    assert_equal(lone, tuple(lone.submit(second)), expected)
    assert 0 < reading.so_far() < 0.6 * read_alone
    assert_equal(lone, tuple(running), alone[1:])


def same_bits(engine: Engine) -> bool:
    """Whether decoding writes what reading would write: only then are replies kept, too."""
    in_loops = engine.status()["models"]["base"]["graphs"] == "off"
    return in_loops and not engine.info.precision.startswith("fp32")


def test_the_next_turn_reads_only_what_is_new(
    engine: Engine, lone: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A conversation goes on, and the same is asked under other toggles."""
    reading = Reading(engine, monkeypatch)
    prompt = "A conversation of its own. " * 8
    first = ask(prompt, "ABA", max_new_tokens=20)
    reply = engine.generate(first)
    read_first = reading.so_far()
    assert 0 < engine.status()["models"]["base"]["kept_rows"] <= 12
    prompts = {row.prompt for row in engine._processor.sequence(first).on("base")}
    without_reply = prompts <= {row.prompt for row in engine._tables["base"].kept}
    assert without_reply == (not same_bits(engine))
    said = (Message("user", prompt), Message("assistant", reply.text), Message("user", "Hi"))
    following = replace(first, messages=said)
    assert_equal(engine, engine.generate(following).steps, lone.generate(following).steps)
    longer = reading.so_far()
    again = replace(first, preference="ABB")
    assert_equal(engine, engine.generate(again).steps, lone.generate(again).steps)
    assert longer < 0.6 * read_first
    assert reading.so_far() < 0.6 * read_first
    assert_equal(engine, engine.generate(first).steps, reply.steps)
    assert reading.so_far() == 0


def test_another_architecture_alone_and_in_a_crowd(tmp_path: Path) -> None:
    """Qwen2, in transformers' own code."""
    tiny.save_qwen2(tmp_path / "base", seed=3)
    engine = Engine.open(load_pack(tiny.write_pack(tmp_path, tmp_path / "base", dimensions=3)))
    assert engine.status()["models"]["base"]["decoder"] == "transformers"
    crowd = [ask(prompt, code, seed=4) for prompt in PROMPTS for code in ("AAA", "-B-")]
    alone = [engine.generate(request).steps for request in crowd]
    streams = [engine.submit(request) for request in crowd]
    for stream, expected in zip(streams, alone, strict=True):
        assert_equal(engine, tuple(stream), expected)
    engine.close()


def test_rows_are_free_after_everyone_has_left(engine: Engine) -> None:
    streams = [engine.submit(ask(seed=seed, max_new_tokens=400)) for seed in range(8)]
    for stream in streams:
        next(iter(stream))
        stream.cancel()
    while not engine._scheduler.idle:
        time.sleep(0.01)
    assert all(not table.running and not table.entering for table in engine._tables.values())
    assert engine._replies == {}


def test_a_cancelled_stream_ends_before_the_engine_looks_up(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader does not wait for a long forward pass to end."""
    real, over = engine._runner.step, threading.Event()

    def slow(*arguments: object) -> object:
        over.wait(PATIENCE)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(engine._runner, "step", slow)
    stream = engine.submit(ask(max_new_tokens=50))
    stream.cancel()
    assert list(stream) == []
    assert not over.is_set()
    assert stream.trace().finish_reason == "cancelled"
    over.set()
