"""Many requests at once: more are submitted than run, so that one that ends makes room."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TypeVar

from mpd_core.engine.engine import Engine
from mpd_core.engine.stream import Stream
from mpd_core.errors import MPDError
from mpd_core.request import GenerationRequest
from mpd_core.trace import Trace

IN_FLIGHT = 64

Asked = TypeVar("Asked")
T = TypeVar("T")


def outcomes(
    engine: Engine, asked: Iterable[Asked], request: Callable[[Asked], GenerationRequest]
) -> Iterator[tuple[Asked, Trace | MPDError]]:
    """What came of each request, in the order asked; one that fails does not end the others.

    Args:
        engine: that runs them, in mixed batches.
        asked: what to generate.
        request: turns one of these into a request.
    """

    def submit(one: Asked) -> Stream:
        return engine.submit(request(one))

    coming, waiting = iter(asked), deque[tuple[Asked, Stream | MPDError]]()
    while True:
        for one in itertools.islice(coming, IN_FLIGHT - len(waiting)):
            waiting.append((one, _or_error(partial(submit, one))))
        if not waiting:
            return
        one, stream = waiting.popleft()
        yield one, stream if isinstance(stream, MPDError) else _or_error(stream.result)


def _or_error(work: Callable[[], T]) -> T | MPDError:
    try:
        return work()
    except MPDError as error:
        return error
