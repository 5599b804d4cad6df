"""Where products are computed, so that they have the cores to themselves."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def passing(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run something in a thread of its own that ends.

    OpenMP keeps a pool of threads for every thread that ran a product, and once there are more
    than cores, each product waits for sleeping threads. With one pool alive at a time, a step of
    the engine takes half the time on two cores.
    """
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(work, *args, **kwargs).result()
