"""A full evaluation within a time budget: generate, judge and report several prompt sets."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mpd_core.engine import Engine
from mpd_core.errors import RequestError
from mpd_core.evaluation.card import known_pairs
from mpd_core.evaluation.jobs import DARE, WEIGHT_SPACE, Job, content_of, jobs_of, methods_of
from mpd_core.evaluation.judges import judge_named
from mpd_core.evaluation.judging import drawn, judge_pairs, pairs_of
from mpd_core.evaluation.prompts import Prompt, prompts_of
from mpd_core.evaluation.record import REPLIES, define, load_run, replies_of
from mpd_core.evaluation.runs import generate, store
from mpd_core.evaluation.singles import SingleJudge, judge_singles, singles_of
from mpd_core.evaluation.store import Lines, missing
from mpd_core.evaluation.weight_space import WeightSpace
from mpd_core.packs import Pack, Quantize
from mpd_core.request import Sampling
from mpd_core.training.data import Styled

INSIDE, BESIDE = 2, 4
"""Prompts that are generated between two looks at the clock, by the engine and beside it: there a
batch holds the replies of one method to one preference, and no others."""
GENERATING = 0.8
"""Share of the time budget for generation; the rest is for judging."""
PREFIX = "evaluation-"


@dataclass(frozen=True)
class Settings:
    """Settings of a full evaluation."""

    prompts: tuple[str, ...] = ("test",)
    methods: str | None = None
    """None: all but DARE, which is near TIES."""
    limit: int = 50
    """Most prompts of each set."""
    minutes: float = 25.0
    """All sets together; prompts that would take longer are left out, and that is said."""
    judges: tuple[str, ...] = ("measures", "rewards")
    known: int = 400
    """Pairs of written answers for each judge's card."""
    sampling: Sampling = field(default_factory=Sampling)
    quantize: Quantize | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        if not self.minutes > 0:
            raise RequestError("--minutes: give a number above 0.")
        if len({set_name(source) for source in self.prompts}) < len(self.prompts):
            raise RequestError("--prompts: two sets have the same name: rename a file.")


def set_name(source: str) -> str:
    """Name of a prompt set, usable in a folder's name."""
    return re.sub(r"[^\w.-]+", "-", Path(source).stem)[:60]


def usual_methods(pack: Pack) -> list[str]:
    """The methods that are compared by default."""
    return [method for method in methods_of(pack) if method != DARE]


class Generators:
    """The engine, and PEFT's model beside it; each is loaded when it is first needed."""

    def __init__(self, pack: Pack, tell: Callable[[str], None], **how: Any) -> None:
        """``how``: the arguments ``quantize`` and ``device`` of ``Engine.open``."""
        self._pack, self._tell, self._how = pack, tell, how
        self._open = ExitStack()
        self._engine: Engine | None = None
        self._beside: WeightSpace | None = None

    def close(self) -> None:
        """Close the engine, if it was opened."""
        self._open.close()

    def run(self, jobs: Sequence[Job], folder: Path) -> None:
        """Generate and store what is missing; errors as ``runs.store``."""
        waiting = missing(Lines(folder / REPLIES), jobs)
        inside = [job for job in waiting if job.request.method not in WEIGHT_SPACE]
        beside = [job for job in waiting if job.request.method in WEIGHT_SPACE]
        if inside:
            if self._engine is None:
                engine = Engine.open(self._pack, progress=self._tell, **self._how)
                self._engine = self._open.enter_context(closing(engine))
            generate(self._engine, inside, folder)
        if beside:
            self._beside = self._beside or WeightSpace(self._pack, **self._how)
            store(beside, folder, self._beside.outcomes)


def full(
    pack: Pack,
    settings: Settings,
    root: Path,
    answers: Sequence[Styled],
    tell: Callable[[str], None] = lambda _: None,
) -> list[Path]:
    """Generate and judge; what is stored already is neither made nor asked anew.

    Args:
        pack: to be evaluated.
        settings: of the run.
        root: each set has a folder ``evaluation-NAME`` there.
        answers: written ones for the judges' cards.
        tell: is told in sentences what is being done.

    Returns:
        The folders, with a run and its verdicts each.

    Raises:
        RequestError: prompts, methods or judges that are not there; nothing has been generated.
        MPDError: replies or judges that fail; what was there until then is stored.
    """
    sets = {source: prompts_of(pack, source, settings.limit) for source in settings.prompts}
    methods = methods_of(pack, settings.methods) if settings.methods else usual_methods(pack)
    judges = [judge_named(name, pack) for name in settings.judges]
    folders, start = [], time.monotonic()
    how = {"quantize": settings.quantize, "device": settings.device}
    with closing(Generators(pack, tell, **how)) as generators:
        for number, (source, prompts) in enumerate(sets.items(), 1):
            end = start + settings.minutes * 60 * GENERATING * number / len(sets)
            folder = root / f"{PREFIX}{set_name(source)}"
            jobs = _generate(pack, settings, (prompts, methods), generators, folder, end)
            codes = [preference.code for preference in pack.space]
            content = content_of(pack, settings.quantize)
            define(pack, content, source, codes, jobs).save(folder)
            count = len({job.id for job in jobs})
            tell(f"{source}: {len(jobs)} replies to {count} of {len(prompts)} prompts in {folder}.")
            folders.append(folder)
    known = drawn(known_pairs(pack.space, answers), settings.known)
    for folder in folders:
        run = load_run(folder)
        replies = replies_of(folder, run)
        pairs = list(pairs_of(pack.space, replies, run.methods))
        for judge in judges:
            judge_pairs(judge, [*pairs, *known], folder)
            if isinstance(judge, SingleJudge):
                judge_singles(judge, singles_of(pack.space, replies), folder)
            tell(f"Judged by {judge.name}: {folder}.")
    tell(f"{(time.monotonic() - start) / 60:.1f} minutes.")
    return folders


def _generate(
    pack: Pack,
    settings: Settings,
    what: tuple[Sequence[Prompt], Sequence[str]],
    generators: Generators,
    folder: Path,
    end: float,
) -> list[Job]:
    """Generate replies to as many prompts as the time allows, at least the first few."""
    codes = [preference.code for preference in pack.space]
    done: list[Job] = []
    longest: dict[bool, float] = {}
    for prompts, methods in _in_turn(*what):
        began, beside = time.monotonic(), methods[0] in WEIGHT_SPACE
        if done and began + longest.get(beside, 0.0) > end:
            break
        jobs = jobs_of(pack, prompts, methods, codes, settings.sampling, settings.quantize)
        generators.run(jobs, folder)
        done += jobs
        longest[beside] = max(longest.get(beside, 0.0), time.monotonic() - began)
    return done


def _in_turn(
    prompts: Sequence[Prompt], methods: Sequence[str]
) -> Iterator[tuple[Sequence[Prompt], list[str]]]:
    """Prompts and methods as they are generated, the most important first.

    Baselines beside the engine take about as long as everything else together: they read a few
    prompts, and more only after the engine has read all.
    """
    inside = [method for method in methods if method not in WEIGHT_SPACE]
    beside = [method for method in methods if method in WEIGHT_SPACE]
    turns = [
        *((inside, INSIDE, prompts[:BESIDE]), (beside, BESIDE, prompts[:BESIDE])),
        *((inside, INSIDE, prompts[BESIDE:]), (beside, BESIDE, prompts[BESIDE:])),
    ]
    for some, size, of in turns:
        for start in range(0, len(of) if some else 0, size):
            yield of[start : start + size], some
