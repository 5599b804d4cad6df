"""As many threads as the process may keep busy, the same for products and loops."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest

from mpd_core.models import kernels
from mpd_core.models.threads import LIMITS, group_quotas, run_in_fresh_thread, usable_cores
from tests.fresh_python import in_python

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
SAY_NOTHING = ("999", "0", "-1", "", "two", "1.5", "1x")


@kernels.compiled(parallel=True)
def who_works(out: Any) -> None:
    """Which thread takes each piece of a loop."""
    for i in numba.prange(len(out)):
        out[i] = numba.get_thread_id()


def files(root: Path, **texts: str) -> Path:
    """A system's files below a folder; ``proc`` is what /proc/self/cgroup says."""
    for name, text in texts.items():
        path = "proc/self/cgroup" if name == "proc" else f"sys/fs/cgroup/{name}"
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
    return root


V1 = "9:name=systemd:/\n4:memory:/a\n2:cpu,cpuacct:/docker/f00\n"
CASES: dict[str, tuple[dict[str, str], list[float]]] = {
    "none": ({"proc": "0::/\n"}, []),
    "no files at all": ({}, []),
    "docker --cpus 2 of 64": ({"proc": "0::/\n", "cpu.max": "200000 100000\n"}, [2.0]),
    "half a core": ({"proc": "0::/\n", "cpu.max": "50000 100000"}, [0.5]),
    "unlimited": ({"proc": "0::/\n", "cpu.max": "max 100000\n"}, []),
    "above and within": (
        {"proc": "0::/a.slice/b\n", "a.slice/cpu.max": "300000 100000", "a.slice/b/cpu.max": "max"},
        [3.0],
    ),
    "both limit": (
        {"proc": "0::/a/b", "a/cpu.max": "300000 100000", "a/b/cpu.max": "150000 100000"},
        [1.5, 3.0],
    ),
    "the host's path in a container": (
        {"proc": "0::/../../docker/f00", "cpu.max": "250000 100000"},
        [2.5],
    ),
    "beside version 1": ({"proc": "0::/x", "unified/x/cpu.max": "100000 100000"}, [1.0]),
    "version 1": (
        {
            "proc": V1,
            "cpu,cpuacct/docker/f00/cpu.cfs_quota_us": "400000\n",
            "cpu,cpuacct/docker/f00/cpu.cfs_period_us": "100000\n",
        },
        [4.0],
    ),
    "version 1, at the mount": (
        {"proc": V1, "cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"},
        [0.5],
    ),
    "version 1, unlimited": (
        {"proc": V1, "cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
        [],
    ),
    "a file of another kind": ({"proc": "0::/\nnonsense\n::\n", "cpu.max": "\x00 \x00"}, []),
    "a period of zero": ({"proc": "0::/\n", "cpu.max": "100000 0"}, []),
    "one number": ({"proc": "0::/\n", "cpu.max": "100000"}, []),
    "a quota of zero": ({"proc": "0::/\n", "cpu.max": "0 100000"}, [0.0]),
}


@pytest.mark.parametrize(("texts", "quotas"), CASES.values(), ids=CASES)
def test_quotas_of_control_groups(
    tmp_path: Path, texts: dict[str, str], quotas: list[float]
) -> None:
    root = files(tmp_path, **texts)
    assert sorted(group_quotas(root)) == quotas
    cores = usable_cores(root, {})
    assert cores == max(1, min([CORES, *(int(np.ceil(quota)) for quota in quotas)]))


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize(
    ("said", "most"),
    [("1", 1), (" 1 ", 1), ("1,4", 1), *((said, None) for said in SAY_NOTHING)],
)
def test_the_environment_limits_but_never_adds(
    tmp_path: Path, name: str, said: str, most: int | None
) -> None:
    assert usable_cores(tmp_path, {name: said}) == min(CORES, most or CORES)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_cores_that_the_process_may_not_run_on_do_not_count(tmp_path: Path) -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert usable_cores(tmp_path, {}) == 1
    finally:
        os.sched_setaffinity(0, allowed)


CODE = """
import threading
from mpd_core.models import kernels
from tests.test_threads import who_works
import numpy as np, torch

def look():
    torch.randn(512, 512) @ torch.randn(512, 512)
    workers = np.full(4096, -1)
    who_works(workers)
    print(torch.get_num_threads(), kernels.loop_threads(), len(np.unique(workers)))

look()
other = threading.Thread(target=look)
other.start()
other.join()
"""
"""What torch says, what numba says, and the threads that took part: in two Python threads."""


def test_one_thread_is_one_thread_everywhere() -> None:
    said = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": str(CORES)}
    assert in_python(CODE, **said).splitlines() == ["1 1 1"] * 2


def test_numba_may_have_been_imported_before() -> None:
    """With a number of its own, which it holds against the environment when it compiles."""
    code = "import numba\nprint(numba.config.NUMBA_NUM_THREADS)" + CODE
    first, *looked = in_python(code, OMP_NUM_THREADS="1", NUMBA_NUM_THREADS="2").splitlines()
    assert (first, looked) == ("2", ["1 1 1"] * 2)


@pytest.mark.skipif(CORES < 2 or not kernels.HAS_OPENMP, reason="needs two cores and OpenMP")
def test_otherwise_all_cores_work() -> None:
    said = {"OMP_NUM_THREADS": "", "NUMBA_NUM_THREADS": str(CORES)}
    for line in in_python(CODE, **said).splitlines():
        torchs, loops, workers = (int(number) for number in line.split())
        assert torchs == loops == workers > 1


def test_an_interrupted_thread_is_not_waited_for() -> None:
    """Ctrl+C while a model is obtained: that may take hours."""
    code = """
import os, signal, threading, time
from mpd_core.models.threads import run_in_fresh_thread
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    run_in_fresh_thread(time.sleep, 3000)
except KeyboardInterrupt:
    print("left")
"""
    assert in_python(code) == "left"


def test_a_fresh_thread_hands_on_what_came_of_it() -> None:
    assert run_in_fresh_thread(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        run_in_fresh_thread(divmod, 7, 0)
