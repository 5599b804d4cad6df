"""Hugging Face ZeroGPU: borrow a GPU for one reply, where the optional package ``spaces`` is.

There a reply is written in a forked process that lives as long as the generator, so it yields
plain values only, and is cancelled by closing it.
"""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from mpd_core.request import GenerationRequest
from mpd_core.trace import StepRecord, Trace
from mpd_core.ui.opening import arriving

if TYPE_CHECKING:
    from mpd_core.engine import Stream
    from mpd_core.ui.opening import Host

Piece = tuple[str, ...] | StepRecord | Trace
"""What a producer yields: the experts' names (none while the model is awaited), then steps, at last
the trace."""
Producer = Callable[..., Iterator[Piece]]

_START_S, _TOKEN_S, _LIMIT_S = 10, 0.06, 120


def active() -> bool:
    """Whether this process serves a ZeroGPU Space."""
    return (
        bool(os.environ.get("SPACES_ZERO_GPU")) and importlib.util.find_spec("spaces") is not None
    )


def producer(host: Host) -> Producer:
    """A generator function over the engine, that asks for a GPU where one must be asked for."""

    def produce(
        request: GenerationRequest, opened: Callable[[Stream], None] | None = None
    ) -> Iterator[Piece]:
        engine = yield from arriving(host)
        stream = engine.submit(request)
        if opened is not None:
            opened(stream)
        with stream:
            yield stream.experts
            yield from stream
            yield stream.trace()

    if not active():
        return produce
    import spaces

    decorated: Producer = spaces.GPU(duration=duration)(produce)
    return lambda request, _=None: decorated(request)  # a fork could not hand the stream over


def duration(request: GenerationRequest, *_: object) -> int:
    """Seconds of GPU time to reserve for a request: too many would make the visitor wait."""
    return min(_LIMIT_S, math.ceil(_START_S + _TOKEN_S * request.sampling.max_new_tokens))
