"""What all prompts begin with, read before the first of them comes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from mpd_core.engine.processor import RequestProcessor
from mpd_core.engine.runner import Runner
from mpd_core.engine.scheduler import Scheduler
from mpd_core.errors import RequestError
from mpd_core.method.preferences import Preference
from mpd_core.packs import Pack
from mpd_core.request import GenerationRequest, Message, Sampling

WORD = (Message("user", "?"),)


def read_beginnings(
    pack: Pack, processor: RequestProcessor, runner: Runner, scheduler: Scheduler
) -> None:
    """Leave rows in the prefix caches that hold what a template writes before a user's words.

    One for every adapter: each pole's, the anchor's, the PCM's, and the bare base. What a prompt
    has in common with them is copied, as from requests that have ended. Remote experts are not
    asked. To be called on the thread that computes, before any request.
    """
    with torch.inference_mode():
        for request in _requests(pack):
            with contextlib.suppress(RequestError):  # where the template alone is too long
                scheduler.add(sequence := processor.sequence(request))
                scheduler.schedule()
                while not sequence.prefilled:
                    runner.prefill(scheduler.tables)
                scheduler.finish_prefill()
                runner.compact(scheduler.remove(sequence, keep=True), scheduler.tables)
        runner.rest(scheduler.tables)


def _requests(pack: Pack) -> Iterator[GenerationRequest]:
    """So few that every pole is in one of them."""
    dimensions, one = pack.space.dimensions, Sampling(max_new_tokens=1)
    for k in range(max(len(dimension.poles) for dimension in dimensions)):
        poles = tuple(d.poles[min(k, len(d.poles) - 1)] for d in dimensions)
        code = Preference(dimensions, poles).code
        yield GenerationRequest(WORD, code, space=pack.spec.decode.space, sampling=one)
    yield GenerationRequest(WORD, code, method="vanilla", sampling=one)
