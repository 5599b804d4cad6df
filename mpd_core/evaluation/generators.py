"""Who generates a run's replies: the engine, the engine with joined experts, or PEFT's model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tqdm import tqdm

from mpd_core.engine import Engine
from mpd_core.engine.flight import outcomes
from mpd_core.engine.plan import ONE_EXPERT
from mpd_core.errors import EngineError, MPDError
from mpd_core.evaluation.jobs import ARROW, JOINED, WEIGHT_SPACE, Job, Outcomes, missing, row_of
from mpd_core.evaluation.record import REPLIES, Lines, Row
from mpd_core.evaluation.weight_space import WeightSpace
from mpd_core.method.preferences import LEFT_OUT
from mpd_core.models.adapters import WEIGHTS_FILE
from mpd_core.packs import Pack, file_sha256
from mpd_core.packs.schema import AdapterSpec, DimensionSpec, ExpertsSpec, PCMSpec, PoleSpec
from mpd_core.request import GenerationRequest
from mpd_core.trace import Trace

Joined = tuple[str, str]
"""A method that joins experts into one adapter, and the code of a preference."""


def store(jobs: Sequence[Job], folder: Path, run: Callable[[Sequence[Job]], Outcomes]) -> None:
    """Generate the jobs that have no row yet; each row is stored as soon as it is finished.

    ``run`` gives the row of each job, or why there is none.

    Raises:
        EngineError: some failed; the others have been stored, and another run does the rest.
    """
    failures: list[str] = []
    with Lines(folder / REPLIES).writing() as lines:
        waiting = missing(lines.rows, jobs)
        for job, outcome in tqdm(run(waiting), "replies", len(waiting), leave=False):
            if isinstance(outcome, MPDError):
                failures.append(f"{job.method}, prompt {job.id}: {outcome}")
            else:
                lines.add(outcome)
    if failures:
        raise EngineError(f"{len(failures)} replies failed, first: {failures[0]}")


def by_engine(
    engine: Engine,
    jobs: Sequence[Job],
    request: Callable[[Job], GenerationRequest] = attrgetter("request"),
) -> Outcomes:
    """The row or error of each job, in the engine's mixed batches; ``request`` is what it asks."""
    for job, outcome in outcomes(engine, jobs, request):
        yield job, _row(job, outcome) if isinstance(outcome, Trace) else outcome


def _row(job: Job, trace: Trace) -> Row:
    """Stored row of a reply, with weights by token where several experts took part."""
    finished = trace.finish_reason == "stop"
    row = row_of(job, trace.text, finished, len(trace.steps), (trace.device, trace.precision))
    if any(len(step.weights) > 1 for step in trace.steps):
        row["experts"] = list(trace.steps[0].weights)
        row["weights"] = [[round(w, 3) for w in step.weights.values()] for step in trace.steps]
        row["pieces"] = [step.text for step in trace.steps]
    return row


class Generators:
    """What a run needs, each loaded when it is first needed; one engine is open at a time."""

    def __init__(self, pack: Pack, tell: Callable[[str], None], **how: Any) -> None:
        """``how``: the arguments ``quantize`` and ``device`` of ``Engine.open``."""
        self._pack, self._tell, self._how = pack, tell, how
        self._open = ExitStack()
        self._engine: Engine | None = None
        self._beside: WeightSpace | None = None
        self._joined: Pack | None = None
        self._refused: dict[Joined, MPDError | None] = {}
        """Of what was asked to be joined: why it cannot be, or None."""

    def close(self) -> None:
        """Close the engine, if it was opened, and forget joined experts."""
        self._close_engine()
        self._open.close()

    def run(self, jobs: Sequence[Job], folder: Path) -> None:
        """Generate and store what is missing; errors as ``store``."""
        waiting = missing(Lines(folder / REPLIES).rows, jobs)
        plain = [job for job in waiting if job.request.method not in WEIGHT_SPACE]
        joined = [job for job in waiting if job.request.method in JOINED]
        routed = [job for job in waiting if job.request.method == ARROW]
        if plain:
            store(plain, folder, lambda some: by_engine(self._serving(self._pack), some))
        if joined:
            store(joined, folder, self._by_joined)
        if routed:
            store(routed, folder, lambda some: self._space().outcomes(some))

    def _by_joined(self, jobs: Sequence[Job]) -> Outcomes:
        """Each joined adapter is an expert of a pack of its own, and reads all instructions."""
        wanted = dict.fromkeys((job.method, job.code) for job in jobs)
        if self._joined is None or not wanted.keys() <= self._refused.keys():
            self._joined = self._join(wanted)
        served = []
        for job in jobs:
            if error := self._refused[job.method, job.code]:
                yield job, error
            else:
                served.append(job)
        if served:
            yield from by_engine(self._serving(self._joined), served, _as_expert)

    def _join(self, wanted: Iterable[Joined]) -> Pack:
        root = Path(self._open.enter_context(TemporaryDirectory(prefix="mpd-joined-")))
        self._refused, made = {}, {}
        for joined in wanted:
            method, code = joined
            try:
                poles = self._pack.space.parse(code).poles
                made[joined] = self._space().save(method, poles, root / _name(joined))
                self._refused[joined] = None
            except MPDError as error:
                self._refused[joined] = error
        return joined_pack(self._pack, made)

    def _space(self) -> WeightSpace:
        self._beside = self._beside or WeightSpace(self._pack, **self._how)
        return self._beside

    def _serving(self, pack: Pack) -> Engine:
        """An engine on this pack; one on another is closed first, for each takes what it may."""
        if self._engine is None or self._engine.pack is not pack:
            self._close_engine()
            self._engine = Engine.open(pack, progress=self._tell, **self._how)
        return self._engine

    def _close_engine(self) -> None:
        if self._engine is not None:
            with closing(self._engine):
                self._engine = None


def joined_pack(pack: Pack, folders: Mapping[Joined, Path]) -> Pack:
    """A pack whose experts are joined adapters: one pole each, with all of its instructions.

    Nothing else of it is in the engine: no PCM, no anchor; it is asked in the space of
    probabilities, where one expert alone says what it says. ``folders`` are as PEFT writes them.
    """
    poles = [
        # Unchecked, for its sentences together may be longer than one of them may be.
        PoleSpec.model_construct(
            name=_name((method, code)),
            instruction=" ".join(pole.instruction for pole in pack.space.parse(code).poles),
        )
        for method, code in folders
    ]
    adapters = {
        _name(joined): AdapterSpec(folder=folder, sha256=file_sha256(folder / WEIGHTS_FILE))
        for joined, folder in folders.items()
    }
    only = DimensionSpec.model_construct(name="joined", poles=tuple(poles))
    experts = ExpertsSpec(prompt="own", adapters=adapters)
    none: dict[str, Any] = {"pcm": PCMSpec(), "rewards": None, "static": {}, "examples": ()}
    spec = pack.spec.model_copy(update={"dimensions": (only,), "experts": experts, **none})
    return Pack(spec, pack.folder)


def _name(joined: Joined) -> str:
    return "-".join(joined)


def _as_expert(job: Job) -> GenerationRequest:
    name = f"{ONE_EXPERT}{_name((job.method, job.code))}"
    return replace(job.request, preference=LEFT_OUT, method=name, space="probability")
