"""The training stages: what each runs, and how much work it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mpd_core.engine import Engine
from mpd_core.method.preferences import Pole
from mpd_core.models.base import fastest_precision
from mpd_core.models.threads import run_in_fresh_thread
from mpd_core.training import estimate
from mpd_core.training.adapters.experts import train_experts
from mpd_core.training.adapters.rewards import train_rewards
from mpd_core.training.context import TrainingContext
from mpd_core.training.estimate import Work
from mpd_core.training.export import check_experts, check_rewards, trained_pack
from mpd_core.training.pcm import static_search
from mpd_core.training.pcm.loop import prompts_of, train_pcm
from mpd_core.training.scoring.calibration import calibrate, verdicts_of
from mpd_core.training.scoring.reward_function import references_of, reward_function


@dataclass(frozen=True)
class Options:
    """Options of a stage."""

    poles: Sequence[Pole]
    """Whose experts are trained."""
    resume: bool
    """Keep finished results, and continue an interrupted run."""
    tell: Callable[[str], None]
    """Called with progress messages."""


def verdicts(setup: TrainingContext, options: Options) -> None:
    """The reward models' head, by what blind readers saw."""
    run_in_fresh_thread(calibrate, setup, options.tell, resume=options.resume)


def checked_verdicts(setup: TrainingContext) -> Iterator[Work]:
    """Seconds of work, after minutes of reading; a file with mistakes is refused before all."""
    verdicts_of(setup)
    return iter(())


def references(setup: TrainingContext, options: Options) -> None:
    """Generate the baseline's replies for all prompts of PCM training; existing ones are kept."""
    used = (prompts_of(setup, k) for k in range(setup.recipe.pcm.iterations))
    prompts = list(dict.fromkeys(prompt for some in used for prompt in some))
    codes = setup.pack.space.codes
    pack = run_in_fresh_thread(trained_pack, setup)
    size = setup.recipe.pcm.rollouts.prompts
    with Engine.open(pack, precision=fastest_precision()) as engine:
        for start in range(0, len(prompts), size):  # in pieces: each is kept when it is done
            references_of(setup).ensure(engine, prompts[start : start + size], codes)
            done = min(start + size, len(prompts))
            options.tell(f"references: {done} of {len(prompts)} prompts")


def static(setup: TrainingContext, options: Options) -> None:
    """The grid of constant weights on the first validation prompts."""
    if options.resume and static_search.result(setup).is_file():
        return
    check_rewards(setup)
    if not options.resume:
        static_search.forget(setup)
    rows = setup.styles.split("valid")[: setup.recipe.static.prompts]
    reward = run_in_fresh_thread(reward_function, setup)
    static_search.search(setup, reward, [row.prompt for row in rows], options.tell)


def pcm(setup: TrainingContext, options: Options) -> None:
    """The Preference Control Model."""
    check_experts(setup)
    check_rewards(setup)
    train_pcm(setup, resume=options.resume, tell=options.tell)


@dataclass(frozen=True)
class Stage:
    """A stage's function, and its amount of work."""

    run: Callable[[TrainingContext, Options], None]
    work: Callable[[TrainingContext], Iterator[Work]]


STAGES: Mapping[str, Stage] = {
    "experts": Stage(lambda s, o: train_experts(s, o.poles, resume=o.resume), estimate.experts),
    "rewards": Stage(lambda s, o: train_rewards(s, resume=o.resume), estimate.rewards),
    "verdicts": Stage(verdicts, checked_verdicts),
    "references": Stage(references, estimate.references),
    "static": Stage(static, estimate.static),
    "pcm": Stage(pcm, estimate.pcm),
}
"""By name, in the order in which one needs the other."""
