"""Threads as measured: what is faster stays, what is slow is left soon, bits stay what they are."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mpd_core.engine import Engine
from mpd_core.engine.pace import DEAREST, MOST_REST, Pace
from mpd_core.models.kernels import HAS_OPENMP
from mpd_core.models.linear import can_pack
from mpd_core.packs import load_pack
from tests import tiny
from tests.fresh_python import in_python
from tests.test_blocks import MIXES, TEMPLATE, converted

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Machine:
    """A clock that steps push forward, by how long they take on so many threads."""

    def __init__(self, most: int, seconds: Callable[[int], float]) -> None:
        self.now, self.threads, self.seconds = 0.0, most, seconds
        self.pace = Pace(most, self.use, lambda: self.now)

    def use(self, threads: int) -> None:
        self.threads = threads

    def run(self, seconds: float, work: Callable[[int], int] = lambda _: 4) -> int:
        """Steps in so many seconds."""
        end, steps = self.now + seconds, 0
        while self.now < end:
            with self.pace.step(work(steps)):
                self.now += self.seconds(self.threads)
            steps += 1
        return steps


def quiet(threads: int) -> float:
    return 0.02 / threads**0.8


def test_a_quiet_machine_keeps_all_threads_and_loses_little() -> None:
    for most in (2, 3, 16):
        machine = Machine(most, quiet)
        steps = machine.run(60)
        assert machine.pace.threads == machine.threads == most
        assert steps >= (1 - DEAREST) * 60 / quiet(most)


def test_a_crowds_long_steps_are_tried_seldom() -> None:
    machine = Machine(2, lambda threads: 20 * quiet(threads))
    assert machine.run(300) >= (1 - 1.5 * DEAREST) * 300 / (20 * quiet(2))


def test_a_starved_thread_is_given_up_and_taken_back() -> None:
    """Ten times slower on two, as beside a neighbour of high priority; then that one ends."""
    machine = Machine(2, lambda threads: 0.25 if threads == 2 else 0.03)
    machine.run(4)
    assert machine.pace.threads == 1
    steps = machine.run(60)
    assert steps >= 0.95 * 60 / 0.03
    machine.seconds = quiet
    machine.run(3 * MOST_REST)
    assert machine.pace.threads == machine.threads == 2


def test_where_a_step_takes_seconds_the_second_one_is_fast() -> None:
    """Both cores are somebody else's, nearly all of the time."""
    machine = Machine(2, lambda threads: 5 if threads == 2 else 0.2)
    assert machine.run(10) > 20


def test_of_many_cores_the_busy_ones_alone_are_given_up() -> None:
    """Five of sixteen are somebody else's."""
    machine = Machine(16, lambda threads: quiet(threads) * (10 if threads > 11 else 1))
    machine.run(400)
    assert machine.pace.threads in (10, 11)


def test_steps_of_other_work_are_no_comparison() -> None:
    """A request comes at every step that is tried on one thread: it looks slow, and fast is two."""
    machine = Machine(2, quiet)
    crowds = iter(range(10**6))
    machine.run(60, lambda _: next(crowds))
    assert machine.pace.threads == 2


def test_a_step_that_fails_leaves_the_number_as_it_was() -> None:
    machine = Machine(2, quiet)
    machine.run(1.1)
    for _ in range(8):
        with pytest.raises(ZeroDivisionError), machine.pace.step(4):
            raise ZeroDivisionError
        assert machine.threads == machine.pace.threads == 2


def test_one_thread_is_never_another() -> None:
    machine = Machine(1, quiet)
    machine.pace = Pace(1, lambda threads: pytest.fail(f"{threads}"), lambda: machine.now)
    machine.run(30)


CODE = """
import hashlib, os, sys
from contextlib import contextmanager
import torch
from mpd_core.engine import Engine
from mpd_core.models.kernels import loop_threads
from mpd_core.models.threads import use_threads
from mpd_core.packs import load_pack
from mpd_core.request import GenerationRequest, Message, Sampling

engine = Engine.open(load_pack(os.environ["PACK"]), precision=os.environ["PRECISION"])
steps, ran = iter(range(10**6)), set()

@contextmanager
def step(work):
    use_threads(1 + next(steps) % engine._pace._most)
    ran.add((torch.get_num_threads(), loop_threads()))
    yield

engine._pace.step = step
sampling = Sampling(max_new_tokens=24, temperature=1.0, seed=3)
asked = [GenerationRequest((Message("user", text),), "AAB", sampling=sampling) for text in "ab"]
streams = [engine.submit(request) for request in asked]
made = [
    (s.token_id, s.weights, [c.probability for c in s.top_k]) for stream in streams for s in stream
]
print(sorted(ran), hashlib.sha256(repr(made).encode()).hexdigest())
engine.close()
"""


@pytest.mark.skipif(CORES < 2 or not HAS_OPENMP or not can_pack(), reason="needs two cores")
@pytest.mark.parametrize("precision", ["auto", "fp16"])
def test_steps_on_one_and_two_threads_say_the_same_to_the_bit(
    tmp_path: Path, precision: str
) -> None:
    base = converted(tmp_path / "x", kinds=MIXES["Q4_1, output in 8 bits"])
    pack = tiny.write_pack(tmp_path, base, adapters=True, pcm_trained=True, extra=TEMPLATE)
    said = {"PACK": str(pack), "PRECISION": precision}
    one, two = (
        in_python(CODE, **said, OMP_NUM_THREADS=n, NUMBA_NUM_THREADS=n).rpartition(" ")
        for n in "12"
    )
    assert (one[0], two[0]) == ("[(1, 1)]", "[(1, 1), (2, 2)]")
    assert one[2] == two[2]


def test_only_where_bits_stay_is_the_number_chosen(tmp_path: Path) -> None:
    """Products of torch in fp32 may sum in another order on other threads."""
    base = converted(tmp_path / "x", kinds=MIXES["Q4_1, output in 8 bits"])
    pack = load_pack(tiny.write_pack(tmp_path, base, extra=TEMPLATE))
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        for precision, most in (("auto", 3), ("fp16", 3), ("fp32", 1)):
            engine = Engine.open(pack, precision=precision)  # type: ignore[arg-type]
            assert engine._pace._most == (most if can_pack() else 1)
            assert engine.status()["threads_now"] == engine._pace.threads
            engine.close()
    finally:
        torch.set_num_threads(before)
