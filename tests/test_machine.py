"""What is fastest is measured: for training, bf16 or fp32."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
import torch

from mpd_core.training import machine

CPU_ONLY = pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU its kind decides")


class Clock:
    """The machine's, and what is added to it: a step is held up without anybody waiting."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, share: float = 1.0) -> None:
        self.added, self.share = 0.0, share
        monkeypatch.setattr(machine, "time", SimpleNamespace(perf_counter=self.now))

    def now(self) -> float:
        return self.share * time.perf_counter() + self.added


@CPU_ONLY
@pytest.mark.parametrize("bf16_is", ["slower", "faster"])
def test_the_faster_one_is_chosen(bf16_is: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the CPU: the steps are real ones, and one kind is held up."""
    step, clock = machine._step, Clock(monkeypatch)

    def held_up(*tensors: torch.Tensor, bf16: bool) -> None:
        step(*tensors, bf16=bf16)
        if bf16 == (bf16_is == "slower"):
            clock.added += 100.0

    monkeypatch.setattr(machine, "_step", held_up)
    assert machine.trains_in_bf16.__wrapped__() == (bf16_is == "faster")


@CPU_ONLY
def test_a_cpu_that_crawls_in_bf16_is_not_asked_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, clock = [], Clock(monkeypatch, share=0.0)

    def step(*_: torch.Tensor, bf16: bool) -> None:
        asked.append(bf16)
        clock.added += 0.5 if bf16 else 0.01

    monkeypatch.setattr(machine, "_step", step)
    assert not machine.trains_in_bf16.__wrapped__()
    assert asked.count(True) == 1


@pytest.mark.parametrize("bf16", [True, False])
def test_a_step_is_forwards_and_backwards(bf16: bool) -> None:
    x, up, down = torch.randn(4, 8), torch.randn(16, 8), torch.randn(8, 16)
    with torch.profiler.profile() as profile:
        machine._step(x, up, down, bf16=bf16)
    names = {event.key for event in profile.key_averages()}
    assert any("Backward" in name for name in names)


@CPU_ONLY
def test_it_is_measured_where_gradients_are_off() -> None:
    with torch.inference_mode():
        assert machine.trains_in_bf16.__wrapped__() in (True, False)
