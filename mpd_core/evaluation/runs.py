"""Generating what a run asks for, in the engine's mixed batches; what is there is not made anew."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mpd_core.engine import Engine, Stream
from mpd_core.errors import EngineError, MPDError
from mpd_core.evaluation.jobs import Job
from mpd_core.evaluation.record import REPLIES
from mpd_core.evaluation.store import Lines, Row, missing
from mpd_core.trace import Trace
from mpd_core.training.rollouts import IN_FLIGHT

DIGITS = 3


def generate(engine: Engine, jobs: Sequence[Job], folder: Path) -> None:
    """Generate and store all replies; each is stored when it is there, in any order.

    Raises:
        EngineError: some failed; the others have been stored, and another run does the rest.
    """
    failures: list[str] = []
    with Lines(folder / REPLIES).writing() as lines:
        waiting = missing(lines, jobs)
        with tqdm(total=len(waiting), desc="replies", leave=False) as bar:
            for job, outcome in _outcomes(engine, waiting):
                if isinstance(outcome, Trace):
                    lines.add(row_of(job, outcome))
                else:
                    failures.append(f"{job.method}, prompt {job.id}: {outcome}")
                bar.update()
    if failures:
        raise EngineError(f"{len(failures)} replies failed, first: {failures[0]}")


def _outcomes(engine: Engine, jobs: Sequence[Job]) -> Iterator[tuple[Job, Trace | MPDError]]:
    """More are submitted than run at a time: a reply that ends makes room for one that waits."""
    coming, waiting = iter(jobs), deque[tuple[Job, Stream | MPDError]]()
    while True:
        for job in itertools.islice(coming, IN_FLIGHT - len(waiting)):
            waiting.append((job, _submitted(engine, job)))
        if not waiting:
            return
        job, stream = waiting.popleft()
        yield job, _awaited(stream)


def _submitted(engine: Engine, job: Job) -> Stream | MPDError:
    try:
        return engine.submit(job.request)
    except MPDError as error:  # one prompt that is too long must not end the run
        return error


def _awaited(stream: Stream | MPDError) -> Trace | MPDError:
    if isinstance(stream, MPDError):
        return stream
    try:
        for _ in stream:
            pass
        return stream.trace()
    except MPDError as error:
        return error


def row_of(job: Job, trace: Trace) -> Row:
    """A reply as it is stored; with its weights by token where several experts took part."""
    row: dict[str, Any] = {
        "key": job.key,
        "id": job.id,
        "prompt": trace.prompt,
        "code": job.code,
        "method": job.method,
        "text": trace.text,
        "finished": trace.finish_reason == "stop",
        "tokens": len(trace.steps),
        "device": trace.device,
        "precision": trace.precision,
    }
    if any(len(step.weights) > 1 for step in trace.steps):
        row["experts"] = list(trace.steps[0].weights)
        row["weights"] = [_rounded(step.weights) for step in trace.steps]
        row["pieces"] = [step.text for step in trace.steps]
    return row


def _rounded(weights: Mapping[str, float]) -> list[float]:
    return [round(weight, DIGITS) for weight in weights.values()]
