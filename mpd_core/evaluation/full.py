"""A full evaluation within a time budget: generate, judge and report several prompt sets."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from mpd_core.errors import RequestError
from mpd_core.evaluation.generators import Generators
from mpd_core.evaluation.jobs import DARE, WEIGHT_SPACE, Job, define, jobs_of, methods_of
from mpd_core.evaluation.judges import CARD_PAIRS, judge_named, judge_run
from mpd_core.evaluation.judges.server import ServerOptions
from mpd_core.evaluation.prompts import Prompt, prompts_of
from mpd_core.packs import Pack, Quantize
from mpd_core.request import Sampling
from mpd_core.training.data import Styled

STEP, FIRST, GROUP = 2, 4, 16
"""Prompts that are generated between two looks at the clock; of the first group, and of the later
ones, after each of which the baselines that join weights read it as well: their batches hold the
replies to one preference, and another engine has to be loaded for them."""
GENERATING = 0.8
"""Share of the time budget for generation; the rest is for judging."""
PREFIX = "evaluation-"


@dataclass(frozen=True)
class Settings:
    """Settings of a full evaluation: the options of the command."""

    prompts: tuple[str, ...] = ("test",)
    methods: str | None = None
    """None: all but DARE, which is near TIES."""
    limit: int = 50
    minutes: float = 25.0
    judges: tuple[str, ...] = ("measures", "rewards")
    server: ServerOptions | None = None
    pairs: int | None = None
    known: int = 400
    """Pairs of written answers for each judge's card, but for a server's."""
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


def full(
    pack: Pack,
    settings: Settings,
    root: Path,
    answers: Sequence[Styled],
    tell: Callable[[str], None] = lambda _: None,
) -> list[Path]:
    """Generate and judge; what is stored already is neither made nor asked anew.

    Each set of prompts has a folder ``evaluation-NAME`` in ``root``; ``answers`` are written ones,
    for the judges' cards; ``tell`` is told in sentences what is being done.

    Returns:
        The folders, with a run and its verdicts each.

    Raises:
        RequestError: prompts, methods or judges that are not there; nothing has been generated.
        MPDError: replies or judges that fail; what was there until then is stored.
    """
    sets = {source: prompts_of(pack, source, settings.limit) for source in settings.prompts}
    methods = methods_of(pack, settings.methods) if settings.methods else usual_methods(pack)
    judges = [judge_named(name, pack, settings.server, tell) for name in settings.judges]
    codes = pack.space.codes
    folders, start = [], time.monotonic()
    how = {"quantize": settings.quantize, "device": settings.device}
    with closing(Generators(pack, tell, **how)) as generators:
        for number, (source, prompts) in enumerate(sets.items(), 1):
            end = start + settings.minutes * 60 * GENERATING * number / len(sets)
            folder = root / f"{PREFIX}{set_name(source)}"
            jobs = _generate(pack, settings, (prompts, methods), generators, folder, end)
            define(pack, source, codes, jobs, settings.quantize).save(folder)
            count = len({job.id for job in jobs})
            tell(f"{source}: {len(jobs)} replies to {count} of {len(prompts)} prompts in {folder}.")
            folders.append(folder)
    for folder in folders:
        for judge in judges:
            known = CARD_PAIRS if judge.costs else settings.known
            judge_run(pack, judge, folder, answers, pairs=settings.pairs, known=known)
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
    codes = pack.space.codes
    done: list[Job] = []
    longest: dict[str, float] = {}  # seconds a prompt
    for prompts, methods in _in_turn(*what):
        began, kind = time.monotonic(), methods[0]
        if done and began + len(prompts) * longest.get(kind, 0.0) > end:
            break
        jobs = jobs_of(pack, prompts, methods, codes, settings.sampling, settings.quantize)
        generators.run(jobs, folder)
        done += jobs
        took = (time.monotonic() - began) / len(prompts)
        longest[kind] = max(longest.get(kind, 0.0), took)
    return done


def _in_turn(
    prompts: Sequence[Prompt], methods: Sequence[str]
) -> Iterator[tuple[Sequence[Prompt], list[str]]]:
    """Prompts and methods as they are generated: in groups, of which the first is small, so that
    every method has replies even where the time ends soon."""
    joining = [method for method in methods if method in WEIGHT_SPACE]
    others = [method for method in methods if method not in joining]
    ends = [0, *range(FIRST, len(prompts), GROUP), len(prompts)]
    for group in (prompts[start:end] for start, end in pairwise(ends)):
        for start in range(0, len(group) if others else 0, STEP):
            yield group[start : start + STEP], others
        if joining and group:
            yield group, joining
