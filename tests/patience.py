"""When a test is ended: one that stands still or never ends, and not one on a busy machine."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest
import pytest_timeout

PATIENCE = 120.0
"""Seconds that a test waits for what must come: how soon it does says what else a machine does."""
LEAST_SHARE = 0.02
"""Of a core, by which a starved test is told from one that waits for what never comes."""


def processor_seconds() -> float:
    """Of this process and all below it, ended ones too."""
    total = 0.0
    me = psutil.Process()
    for process in [me, *me.children(recursive=True)]:
        try:
            total += sum(process.cpu_times()[:4])  # its own and that of children which have ended
        except psutil.Error:
            continue  # it ended meanwhile: its parent knows
    return total


class Watch:
    """Looks at a test every ``limit`` seconds.

    Args:
        limit: seconds of the clock between two looks, and of processor, on every core, for all.
        worked: processor seconds so far.
        clock: seconds so far.
    """

    def __init__(
        self,
        limit: float,
        worked: Callable[[], float] = processor_seconds,
        clock: Callable[[], float] = time.monotonic,
        cores: int = os.cpu_count() or 1,
    ) -> None:
        self.limit, self.worked, self.clock = limit, worked, clock
        self.most = worked() + limit * cores
        self.last, self.at = worked(), clock()

    def goes_on(self) -> bool:
        """Whether the test has worked since the last look, and not for too long."""
        worked, at = self.worked(), self.clock()
        share = (worked - self.last) / max(at - self.at, 1e-9)
        self.last, self.at = worked, at
        return share >= LEAST_SHARE and worked < self.most


@pytest.hookimpl(optionalhook=True)
def pytest_timeout_set_timer(item: Any, settings: Any) -> bool | None:
    """In place of pytest-timeout's alarm, which knows the clock alone."""
    if settings.method != "signal" or threading.current_thread() is not threading.main_thread():
        return None
    watch = Watch(settings.timeout)

    def look(*_: object) -> None:
        if not watch.goes_on():
            pytest_timeout.timeout_sigalrm(item, settings)

    def cancel() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)

    item.cancel_timeout = cancel
    signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, settings.timeout, settings.timeout)
    return True
