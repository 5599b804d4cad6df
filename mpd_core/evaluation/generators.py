"""Who generates a run's replies: the engine, the engine with joined experts, or PEFT's model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
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
from mpd_core.evaluation.record import REPLIES, Lines
from mpd_core.evaluation.weight_space import WeightSpace
from mpd_core.method.preferences import LEFT_OUT
from mpd_core.models.adapters import WEIGHTS_FILE
from mpd_core.packs import Pack, file_sha256
from mpd_core.packs.schema import AdapterSpec, DimensionSpec, ExpertsSpec, PCMSpec, PoleSpec
from mpd_core.request import GenerationRequest
from mpd_core.trace import Trace

Joined = tuple[str, str]
"""A method that joins experts into one adapter, and the code of a preference."""


def by_engine(
    engine: Engine,
    jobs: Sequence[Job],
    request: Callable[[Job], GenerationRequest] = attrgetter("request"),
) -> Outcomes:
    """The row or error of each job, in the engine's mixed batches; ``request`` is what it asks.

    Rows have weights by token where several experts took part.
    """
    for job, trace in outcomes(engine, jobs, request):
        if not isinstance(trace, Trace):
            yield job, trace
            continue
        finished, where = trace.finish_reason == "stop", (trace.device, trace.precision)
        row = row_of(job, trace.text, finished, len(trace.steps), where)
        if any(len(step.weights) > 1 for step in trace.steps):
            row["experts"] = list(trace.steps[0].weights)
            row["weights"] = [[round(w, 3) for w in step.weights.values()] for step in trace.steps]
            row["pieces"] = [step.text for step in trace.steps]
        yield job, row


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
        """Generate the jobs that have no row yet; each row is stored as soon as it is finished.

        Raises:
            EngineError: some failed; the others have been stored, and another run does the rest.
        """
        failures: list[str] = []
        with Lines(folder / REPLIES).writing() as lines:
            waiting = missing(lines.rows, jobs)
            for job, row in tqdm(self._outcomes(waiting), "replies", len(waiting), leave=False):
                if isinstance(row, MPDError):
                    failures.append(f"{job.method}, prompt {job.id}: {row}")
                else:
                    lines.add(row)
        if failures:
            raise EngineError(f"{len(failures)} replies failed, first: {failures[0]}")

    def _outcomes(self, jobs: Sequence[Job]) -> Outcomes:
        if plain := [job for job in jobs if job.request.method not in WEIGHT_SPACE]:
            yield from by_engine(self._serving(self._pack), plain)
        if joined := [job for job in jobs if job.request.method in JOINED]:
            yield from self._by_joined(joined)
        if routed := [job for job in jobs if job.request.method == ARROW]:
            yield from self._space().outcomes(routed)

    def _by_joined(self, jobs: Sequence[Job]) -> Outcomes:
        """Each joined adapter is an expert of a pack of its own, and reads all instructions."""
        wanted = dict.fromkeys((job.method, job.code) for job in jobs)
        if self._joined is None or not wanted.keys() <= self._refused.keys():
            self._joined = self._join(wanted)
        refused = [(job, self._refused[job.method, job.code]) for job in jobs]
        yield from ((job, error) for job, error in refused if error)
        if served := [job for job, error in refused if not error]:
            yield from by_engine(self._serving(self._joined), served, _as_expert)

    def _join(self, wanted: Iterable[Joined]) -> Pack:
        root = Path(self._open.enter_context(TemporaryDirectory(prefix="mpd-joined-")))
        self._refused, made = {}, {}
        for method, code in wanted:
            self._refused[method, code] = None
            try:
                poles = self._pack.space.parse(code).poles
                folder = root / f"{method}-{code}"
                made[method, code] = self._space().save(method, poles, folder)
            except MPDError as error:
                self._refused[method, code] = error
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
            self._engine.close()
            self._engine = None


def joined_pack(pack: Pack, folders: Mapping[Joined, Path]) -> Pack:
    """A pack whose experts are joined adapters: one pole each, with all of its instructions.

    Nothing else of it is in the engine: no PCM, no anchor; it is asked in the space of
    probabilities, where one expert alone says what it says. ``folders`` are as PEFT writes them.
    """
    poles, adapters = [], {}
    for (method, code), folder in folders.items():
        name = f"{method}-{code}"
        said = " ".join(pole.instruction for pole in pack.space.parse(code).poles)
        # Unchecked, for its sentences together may be longer than one of them may be.
        poles.append(PoleSpec.model_construct(name=name, instruction=said))
        adapters[name] = AdapterSpec(folder=folder, sha256=file_sha256(folder / WEIGHTS_FILE))
    only = DimensionSpec.model_construct(name="joined", poles=tuple(poles))
    experts = ExpertsSpec(prompt="own", adapters=adapters)
    none: dict[str, Any] = {"pcm": PCMSpec(), "rewards": None, "static": {}, "examples": ()}
    spec = pack.spec.model_copy(update={"dimensions": (only,), "experts": experts, **none})
    return Pack(spec, pack.folder)


def _as_expert(job: Job) -> GenerationRequest:
    name = f"{ONE_EXPERT}{job.method}-{job.code}"
    return replace(job.request, preference=LEFT_OUT, method=name, space="probability")
