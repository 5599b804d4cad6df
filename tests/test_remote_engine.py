"""Remote experts inside the engine: the same stream as local ones, and trouble that stays local."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from mpd_core.engine import Engine
from mpd_core.engine.plan import ExpertCall, ExpertPlan
from mpd_core.engine.remotes import Remotes
from mpd_core.engine.sequence import CacheRow, Sequence
from mpd_core.errors import EngineError
from mpd_core.packs import Pack, file_sha256, load_pack
from mpd_core.remote.expert import RemoteAnswer, RemoteError
from tests import tiny
from tests.patience import PATIENCE
from tests.remote_process import RemoteServer
from tests.test_engine import ask, assert_same

pytest_plugins = ["tests.remote_fixtures"]
POLES = {"up0": "one", "up1": "two", "up2": "three"}


def remote(pole: str, url: str, top_k: int, timeout_s: float = 10.0) -> str:
    return (
        f'[experts.remotes.{pole}]\nurl = "{url}"\nmodel = "{POLES[pole]}"\ntop_k = {top_k}\n'
        f'api_key_env = "MPD_TEST_KEY"\ntimeout_s = {timeout_s}\nretries = 0'
    )


def local(pole: str, folders: dict[str, Path]) -> str:
    folder = folders[POLES[pole]]
    sha = file_sha256(folder / "adapter_model.safetensors")
    return f'[experts.adapters.{pole}]\nfolder = "{folder}"\nsha256 = "{sha}"'


@pytest.fixture
def open_engine(tiny_base: Path, tmp_path: Path) -> Iterator[Callable[..., Engine]]:
    """Opens engines on the tiny base with the given expert tables, in fp32 as the server is."""
    engines: list[Engine] = []

    def open_(*tables: str) -> Engine:
        folder = tmp_path / str(len(engines))
        folder.mkdir()
        pack: Pack = load_pack(
            tiny.write_pack(folder, tiny_base, prompt="plain", experts="\n".join(tables))
        )
        engines.append(Engine.open(pack, precision="fp32"))
        return engines[-1]

    yield open_
    for engine in engines:
        engine.close()


@pytest.mark.parametrize("away", [("up0", "up1", "up2"), ("up1",)])
def test_remote_experts_write_what_local_ones_write(
    open_engine: Callable[..., Engine],
    remote_server: RemoteServer,
    remote_adapters: dict[str, Path],
    vocab_size: int,
    away: tuple[str, ...],
) -> None:
    """All listed: the same tokens, greedy and sampled, and distributions to 1e-4."""
    here = open_engine(*(local(pole, remote_adapters) for pole in POLES))
    kinds = (
        remote(pole, remote_server.url, vocab_size)
        if pole in away
        else local(pole, remote_adapters)
        for pole in POLES
    )
    there = open_engine(*kinds)
    for request in (
        ask(preference="AAA"),
        ask(preference="AA-", temperature=0.8, seed=4),
        ask(preference="AAA", space="logit", max_new_tokens=6),
    ):
        steps = there.generate(request).steps
        assert_same(steps, here.generate(request).steps)
        assert all(mass < 1e-3 for step in steps for mass in step.missing.values())
        assert set(steps[0].missing) == {pole for pole in away if pole in steps[0].weights}


def test_one_call_asks_for_everyone(
    open_engine: Callable[..., Engine], remote_server: RemoteServer
) -> None:
    """Requests that are in step share a call: fewer calls than steps."""
    engine = open_engine(remote("up0", remote_server.url, 20))
    remote_server.fault("slow", seconds=0.1)
    streams = [engine.submit(ask(preference="A--", seed=seed)) for seed in range(4)]
    steps = sum(len(list(stream)) for stream in streams)
    calls = remote_server.asked()
    assert sum(len(call["prompt"]) for call in calls) == steps
    assert len(calls) < steps


def test_missing_mass_is_in_the_trace(
    open_engine: Callable[..., Engine], remote_server: RemoteServer
) -> None:
    engine = open_engine(remote("up0", remote_server.url, 5))
    trace = engine.generate(ask(preference="AA-", temperature=1.0, seed=2))
    assert any(step.missing["up0"] > 0.01 for step in trace.steps)
    assert all(0 <= step.missing["up0"] < 1 and "up1" not in step.missing for step in trace.steps)


def test_an_expert_that_dies_ends_only_its_streams(
    open_engine: Callable[..., Engine], remote_server: RemoteServer
) -> None:
    engine = open_engine(remote("up0", remote_server.url, 20))
    request = ask(preference="BBB", temperature=1.0, seed=1, max_new_tokens=40)
    expected = engine.generate(request).steps
    doomed = engine.submit(ask(preference="AAA", max_new_tokens=200))
    next(iter(doomed))
    remote_server.fault("hang_up")
    bystander = engine.submit(request)
    with pytest.raises(EngineError, match="up0") as raised:
        list(doomed)
    assert "\n" not in str(raised.value)
    assert doomed.trace().finish_reason == "error"
    assert doomed.trace().steps  # what was said before stays
    assert_same(tuple(bystander), expected)
    remote_server.heal()
    assert engine.generate(ask(preference="AAA")).steps


def test_a_slow_server_holds_up_nobody_else(
    open_engine: Callable[..., Engine], remote_server: RemoteServer
) -> None:
    """Another request is written from first to last while one waits for its server."""
    engine = open_engine(remote("up0", remote_server.url, 20))
    remote_server.fault("slow", seconds=9)
    slow = engine.submit(ask(preference="AAA", max_new_tokens=3))
    assert engine.generate(ask(preference="BBB", max_new_tokens=30, temperature=1.0)).steps
    assert not slow.trace().steps
    slow.cancel()
    assert list(slow) == []


def test_lies_end_the_stream(
    open_engine: Callable[..., Engine], remote_server: RemoteServer
) -> None:
    engine = open_engine(remote("up0", remote_server.url, 20))
    for fault, options in [
        ("value", {"value": "NaN"}),
        ("key", {"key": "token_id:999999"}),
        ("above_one", {}),
        ("truncated", {}),
    ]:
        remote_server.heal()
        remote_server.fault(fault, **options)
        with pytest.raises(EngineError, match="up0"):
            list(engine.submit(ask(preference="AAA")))


class PickyExpert:
    """Like a server with a short context: one long prompt and the whole call is refused."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def log_probs(self, prompts: list[tuple[int, ...]]) -> list[RemoteAnswer]:
        self.calls.append(len(prompts))
        if max(map(len, prompts)) > 5:
            raise RemoteError("The prompt is too long for the server.")
        even = torch.full((7,), 1 / 7).log()
        return [RemoteAnswer(even, 0.0, torch.arange(7)) for _ in prompts]

    def close(self) -> None:
        pass


def test_a_shared_call_that_failed_is_asked_again_alone() -> None:
    expert = PickyExpert()
    remotes = Remotes({"up0": expert})  # type: ignore[dict-item]
    sequences = [
        Sequence(
            ask(),
            ExpertPlan(()),
            (CacheRow(ExpertCall("up0", remote=True), (1,) * length, 20),),
            None,
        )
        for length in (3, 9, 4)
    ]
    remotes.ask(sequences)
    for sequence in sequences:
        while not remotes.ready(sequence):
            remotes.wait(1.0)
    assert expert.calls == [3, 1, 1, 1]
    assert len(remotes.take(sequences[0])) == len(remotes.take(sequences[2])) == 1
    with pytest.raises(RemoteError, match="too long"):
        remotes.take(sequences[1])
    remotes.close()


def test_waiting_is_for_answers_that_are_not_here_yet() -> None:
    """One server has answered and another is slow: the engine must sleep, not spin."""
    answered, slow = PickyExpert(), PickyExpert()
    release = threading.Event()
    slow.log_probs = lambda prompts: [release.wait(PATIENCE)] * len(prompts)  # type: ignore
    remotes = Remotes({"up0": answered, "up1": slow})  # type: ignore[dict-item]
    rows = tuple(CacheRow(ExpertCall(name, remote=True), (1, 2), 20) for name in ("up0", "up1"))
    sequence = Sequence(ask(), ExpertPlan(()), rows, None)
    remotes.ask([sequence])
    while not remotes._pending[rows[0]].call.done():
        remotes.wait(1.0)
    start = time.monotonic()
    remotes.wait(0.3)
    assert time.monotonic() - start > 0.25
    assert not remotes.ready(sequence)
    release.set()
    remotes.close()


def test_what_cannot_be_asked_is_refused_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that is not there: told without obtaining a model, and no thread is left behind."""
    monkeypatch.delenv("MPD_TEST_KEY", raising=False)
    experts = remote("up0", "http://127.0.0.1:9/v1", 5)
    nowhere = tmp_path / "no-model-here"
    pack = load_pack(tiny.write_pack(tmp_path, nowhere, dimensions=1, experts=experts))
    before = set(threading.enumerate())  # other tests' engines may have some
    with pytest.raises(RemoteError, match="MPD_TEST_KEY"):
        Engine.open(pack)
    left = set(threading.enumerate()) - before
    assert not [t for t in left if t.name.startswith("remote-")]
