"""A client's end of a request: iterate over the steps, cancel, and take the trace."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator

from mpd_core.errors import EngineError
from mpd_core.trace import FinishReason, StepRecord, Timing, Trace


class Stream:
    """Steps of one request as they are made; leaving a ``with`` block cancels what still runs."""

    def __init__(
        self,
        experts: tuple[str, ...],
        cancel: Callable[[], None],
        assemble: Callable[[tuple[StepRecord, ...], FinishReason, Timing], Trace],
        ahead: Callable[[], int] = lambda: 0,
    ) -> None:
        self.experts = experts
        self.ahead = ahead
        """How many requests wait or are read before this one."""
        self._cancel = cancel
        self._assemble = assemble
        self._inbox = queue.SimpleQueue[StepRecord | FinishReason | EngineError]()
        self._steps: list[StepRecord] = []
        self._finish: FinishReason | None = None
        self._lock = threading.Lock()
        self._times = [time.monotonic()]

    def put(self, item: StepRecord | FinishReason | EngineError) -> None:
        """For the engine: hand over a step, the reason why the reply ended, or an error."""
        with self._lock:
            if self._finish is not None:  # cancelled by its reader, who does not wait for us
                return
            if isinstance(item, StepRecord):
                self._steps.append(item)
                self._times.append(time.monotonic())
            else:
                self._finish = "error" if isinstance(item, EngineError) else item
            self._inbox.put(item)

    def __iter__(self) -> Iterator[StepRecord]:
        """Steps in order, waiting for each.

        Raises:
            EngineError: the request failed; the steps before it have been given.
        """
        while True:
            item = self._inbox.get()
            if isinstance(item, StepRecord):
                yield item
                continue
            self._inbox.put(item)  # a second iteration ends too, instead of waiting for ever
            if isinstance(item, EngineError):
                raise item
            return

    def cancel(self) -> None:
        """End the stream at once; the engine frees its rows within one step."""
        self._cancel()
        self.put("cancelled")

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        if self._finish is None:
            self.cancel()

    def result(self) -> Trace:
        """Wait for the end; errors as ``__iter__``."""
        for _ in self:
            pass
        return self.trace()

    def trace(self) -> Trace:
        """Everything so far; of a reply that has not ended, with ``finish_reason`` cancelled."""
        with self._lock:
            steps, times = tuple(self._steps), list(self._times)
            finish = self._finish or "cancelled"
        first, *_ = times[1:] or times
        seconds = times[-1] - first
        rate = (len(steps) - 1) / seconds if seconds > 0 else 0.0
        timing = Timing(first - times[0], times[-1] - times[0], rate)
        return self._assemble(steps, finish, timing)
