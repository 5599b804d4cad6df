"""Who generates which replies: the engine, the engine with joined experts, or PEFT's own model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mpd_core.engine import Engine
from mpd_core.engine.plan import ONE_EXPERT
from mpd_core.errors import MPDError
from mpd_core.evaluation.jobs import ARROW, JOINED, WEIGHT_SPACE, Job, missing
from mpd_core.evaluation.record import REPLIES
from mpd_core.evaluation.runs import Outcomes, by_engine, store
from mpd_core.evaluation.store import Lines
from mpd_core.evaluation.weight_space import WeightSpace
from mpd_core.method.preferences import LEFT_OUT
from mpd_core.models.adapters import WEIGHTS_FILE
from mpd_core.packs import Pack, file_sha256
from mpd_core.packs.schema import AdapterSpec, DimensionSpec, ExpertsSpec, PCMSpec, PoleSpec
from mpd_core.request import GenerationRequest

Joined = tuple[str, str]
"""A method that joins experts into one adapter, and the code of a preference."""


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
        """Generate and store what is missing; errors as ``runs.store``."""
        waiting = missing(Lines(folder / REPLIES).rows, jobs)
        ways: tuple[tuple[Callable[[str], bool], Callable[[Sequence[Job]], Outcomes]], ...] = (
            (lambda method: method not in WEIGHT_SPACE, self._by_engine),
            (JOINED.__contains__, self._by_joined),
            (ARROW.__eq__, lambda some: self._space().outcomes(some)),
        )
        for mine, way in ways:
            if some := [job for job in waiting if mine(job.request.method)]:
                store(some, folder, way)

    def _by_engine(self, jobs: Sequence[Job]) -> Outcomes:
        return by_engine(self._serving(self._pack), jobs)

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
