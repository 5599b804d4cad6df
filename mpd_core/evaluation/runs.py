"""Generate and store the replies of a run in the engine's mixed batches; stored ones are reused."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from pathlib import Path

from tqdm import tqdm

from mpd_core.engine import Engine
from mpd_core.engine.flight import outcomes
from mpd_core.errors import EngineError, MPDError
from mpd_core.evaluation.jobs import Job, missing
from mpd_core.evaluation.record import REPLIES
from mpd_core.evaluation.store import Lines, Row
from mpd_core.request import GenerationRequest
from mpd_core.trace import Trace

Outcomes = Iterator[tuple[Job, Row | MPDError]]


def store(jobs: Sequence[Job], folder: Path, run: Callable[[Sequence[Job]], Outcomes]) -> None:
    """Generate the jobs that have no row yet; each row is stored as soon as it is finished.

    Args:
        jobs: what there should be.
        folder: of the run.
        run: gives the row of each job, or why there is none.

    Raises:
        EngineError: some failed; the others have been stored, and another run does the rest.
    """
    failures: list[str] = []
    with Lines(folder / REPLIES).writing() as lines:
        waiting = missing(lines.rows, jobs)
        with tqdm(total=len(waiting), desc="replies", leave=False) as bar:
            for job, outcome in run(waiting):
                if isinstance(outcome, MPDError):
                    failures.append(f"{job.method}, prompt {job.id}: {outcome}")
                else:
                    lines.add(outcome)
                bar.update()
    if failures:
        raise EngineError(f"{len(failures)} replies failed, first: {failures[0]}")


def by_engine(
    engine: Engine,
    jobs: Sequence[Job],
    request: Callable[[Job], GenerationRequest] = attrgetter("request"),
) -> Outcomes:
    """The row or error of each job, in the engine's mixed batches; ``request`` is what it asks."""
    for job, outcome in outcomes(engine, jobs, request):
        yield job, row_of(job, outcome) if isinstance(outcome, Trace) else outcome


def row_of(job: Job, trace: Trace) -> Row:
    """Stored row of a reply, with weights by token where several experts took part."""
    finished = trace.finish_reason == "stop"
    row = plain_row(job, trace.text, finished, len(trace.steps), (trace.device, trace.precision))
    if any(len(step.weights) > 1 for step in trace.steps):
        row["experts"] = list(trace.steps[0].weights)
        row["weights"] = [[round(w, 3) for w in step.weights.values()] for step in trace.steps]
        row["pieces"] = [step.text for step in trace.steps]
    return row


def plain_row(job: Job, text: str, finished: bool, tokens: int, where: tuple[str, str]) -> Row:
    """Fields that every stored reply has; ``where`` is device and precision."""
    asked = {"key": job.key, "id": job.id, "prompt": job.request.messages[-1].content}
    asked |= {"code": job.code, "method": job.method}
    said = {"text": text, "finished": finished, "tokens": tokens}
    return {**asked, **said, "device": where[0], "precision": where[1]}
