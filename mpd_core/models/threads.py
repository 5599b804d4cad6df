"""How many threads compute, and where, so that products have the cores to themselves."""

from __future__ import annotations

import importlib
import math
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path, PurePosixPath
from typing import Any, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")

LOOPS = "NUMBA_NUM_THREADS"
LIMITS = ("OMP_NUM_THREADS", "OMP_THREAD_LIMIT", "MKL_NUM_THREADS", LOOPS)


def settle() -> int:
    """Give torch's products and the compiled loops one number of threads, and return it.

    torch's own number counts, too: it leaves out what is only another thread of the same core, and
    is what a caller has set. numba reads its number once, when it is imported, and holds it against
    the environment whenever it compiles: who has imported it before gets both corrected, unless
    its threads are running, whose number then is the one.
    """
    number = min(usable_cores(), torch.get_num_threads())
    if "numba" in sys.modules:
        parallel: Any = importlib.import_module("numba.np.ufunc.parallel")
        if parallel._is_initialized:
            number = int(parallel.NUM_THREADS)
        config = importlib.import_module("numba").config
        parallel.NUM_THREADS = config.NUMBA_NUM_THREADS = number
    os.environ[LOOPS] = str(number)
    torch.set_num_threads(number)
    return number


def use_threads(number: int) -> None:
    """Have the calling thread compute on so many; loops take no more than ``settle`` said."""
    torch.set_num_threads(number)
    if "numba" in sys.modules:
        numba = importlib.import_module("numba")
        numba.set_num_threads(min(number, numba.config.NUMBA_NUM_THREADS))


def usable_cores(root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> int:
    """The cores that this process may keep busy: at least one.

    The least of the cores that it may run on, the time that its control group is given (Docker's
    ``--cpus``, a Space), rounded up, and what the environment says.

    Args:
        root: where ``proc`` and ``sys`` are.
        environment: see ``LIMITS``; what is no number above zero says nothing.
    """
    quotas = [math.ceil(quota) for quota in group_quotas(root)]
    said = (re.match(r"\s*(\d{1,9})\s*(,|$)", environment.get(name, "")) for name in LIMITS)
    limits = [int(number[1]) for number in said if number]
    try:
        allowed = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # not Linux
        allowed = os.cpu_count() or 1
    return max(1, min([allowed, *quotas, *(limit for limit in limits if limit)]))


def group_quotas(root: Path) -> Iterator[float]:
    """Cores' worth of time that the process' control groups allow, where they limit it.

    Both versions are read, in the group itself and in all above it; in a container the group's
    path may be the host's, while its files lie at the mount.
    """
    mount = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        mounts = {controllers, "cpu"} if controllers else {"", "unified"}
        path = PurePosixPath("/", *(part for part in group.split("/") if part not in ("", "..")))
        for folder in (path, *path.parents):
            for name in mounts:
                here = mount / name / str(folder).lstrip("/")
                yield from _quota(_text(here / "cpu.max"))
                period = _text(here / "cpu.cfs_period_us")
                yield from _quota(f"{_text(here / 'cpu.cfs_quota_us')} {period}")


def _quota(text: str) -> Iterator[float]:
    """Of microseconds of a quota and of its period; ``max`` and -1 are no quota."""
    if (numbers := re.fullmatch(r"\s*(\d{1,15})\s+(\d{1,15})\s*", text)) and int(numbers[2]):
        yield int(numbers[1]) / int(numbers[2])


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def run_in_fresh_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run something in a thread of its own that ends.

    OpenMP keeps a pool of threads for every thread that ran a product, and once there are more
    than cores, each product waits for sleeping threads. With one pool alive at a time, a step of
    the engine takes half the time on two cores.

    Interrupted, it leaves the thread alone: an executor's would first be waited for, and that may
    be a download of hours.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work(*args, **kwargs))
        except BaseException as error:
            outcome.set_exception(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        return outcome.result()
    finally:
        if outcome.done():
            thread.join()
