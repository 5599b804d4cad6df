"""The training stages: what each runs, how much work it is, and how long that takes here."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mpd_core.engine import Engine
from mpd_core.method.preferences import Pole
from mpd_core.method.static import around_uniform, grid
from mpd_core.models.base import fastest_precision
from mpd_core.models.threads import run_in_fresh_thread
from mpd_core.request import Sampling
from mpd_core.training import rollouts
from mpd_core.training.adapters.experts import train_experts
from mpd_core.training.adapters.fitting import in_order
from mpd_core.training.adapters.rewards import train_rewards
from mpd_core.training.context import TrainingContext
from mpd_core.training.data import Styled, common_answers, pole_answers
from mpd_core.training.export import check_experts, check_rewards, trained_pack
from mpd_core.training.pcm import static_search
from mpd_core.training.pcm.loop import prompts_of, train_pcm
from mpd_core.training.pcm_recipe import StageSpec
from mpd_core.training.scoring.calibration import calibrate, verdicts_of
from mpd_core.training.scoring.reward_function import references_of, reward_function

PROBE_REPLIES, PROBE_TOKENS = 16, 8


@dataclass(frozen=True)
class Work:
    """Work of one stage: optimiser steps, training tokens and generated tokens."""

    name: str
    steps: int = 0
    learned: int = 0
    generated: int = 0


@dataclass(frozen=True)
class Options:
    """Options of a stage."""

    poles: Sequence[Pole]
    """Whose experts are trained."""
    resume: bool
    """Keep finished results, and continue an interrupted run."""
    tell: Callable[[str], None]
    """Called with progress messages."""


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


def experts_work(setup: TrainingContext) -> Iterator[Work]:
    """Work of training the anchor and one adapter per pole."""
    recipe, space, taught = setup.recipe, setup.pack.space, setup.taught.split("train")
    if recipe.anchor:
        rows = _packed(setup, taught, common_answers(space))
        yield _learning(setup, "what experts begin with", recipe.anchor, rows)
    for pole in space.poles:
        rows = _packed(setup, taught, pole_answers(space, pole))
        yield _learning(setup, pole.name, recipe.sft, rows)


def rewards_work(setup: TrainingContext) -> Iterator[Work]:
    """The reward models."""
    rows = setup.compared("train")
    every = {name for row in rows for name in row.answers}
    yield _learning(setup, "reward models", setup.recipe.reward, _packed(setup, rows, every))


def _packed(
    setup: TrainingContext, rows: Sequence[Styled], names: Collection[str]
) -> list[list[str]]:
    """Each prompt, read once, with all its answers of these names; those that have any."""
    return [[setup.prompt(row.prompt), *row.texts(names)] for row in rows if row.texts(names)]


def _learning(
    setup: TrainingContext, name: str, stage: StageSpec, rows: Sequence[Sequence[str]]
) -> Work:
    """Work on rows of texts, which batches are counted in."""
    texts = [text for row in rows for text in row]
    tokens = sum(len(ids) for ids in setup.tokenizer(texts)["input_ids"])
    return Work(name, len(in_order(rows, stage, 0)), int(tokens * stage.epochs))


def references_work(setup: TrainingContext) -> Iterator[Work]:
    """The baseline's replies."""
    recipe = setup.recipe
    prompts = min(
        recipe.pcm.iterations * recipe.pcm.rollouts.prompts, len(setup.styles.split("train"))
    )
    replies = prompts * len(setup.pack.space.codes)
    yield Work("references", generated=replies * recipe.references.max_new_tokens)


def static_work(setup: TrainingContext) -> Iterator[Work]:
    """The grid of constant weights."""
    spec = setup.recipe.static
    tokens = setup.recipe.references.max_new_tokens
    if spec.design == "surface":
        tried = sum(len(around_uniform(len(p.poles))) for p in setup.pack.space)
        yield Work("static weights", generated=tried * spec.prompts * tokens)
        return
    points = sum(len(list(grid(len(p.poles), spec.parts, spec.least))) for p in setup.pack.space)
    half = -(-spec.prompts // 2)
    finals = len(setup.pack.space.codes) * spec.finalists
    replies = points * half + finals * (spec.prompts - half)
    yield Work("static weights", generated=replies * tokens)


def pcm_work(setup: TrainingContext) -> Iterator[Work]:
    """Rollouts and updates."""
    spec = setup.recipe.pcm
    groups = spec.rollouts.prompts * len(setup.pack.space.codes)
    replies = groups * spec.rollouts.samples * spec.iterations
    generated = replies * spec.rollouts.max_new_tokens
    steps = spec.iterations * spec.passes * -(-groups // spec.batch)
    if spec.answers:
        rows = setup.taught.split("train")[: spec.answers.prompts]
        codes = setup.pack.space.codes
        texts = [[setup.prompt(row.prompt) + text] for row in rows for text in row.texts(codes)]
        yield _learning(setup, "PCM, written answers", spec.answers, texts)
    yield Work("PCM", steps, 2 * generated * spec.passes, generated)


@dataclass(frozen=True)
class Stage:
    """A stage's function, and its amount of work."""

    run: Callable[[TrainingContext, Options], None]
    work: Callable[[TrainingContext], Iterator[Work]]


STAGES: Mapping[str, Stage] = {
    "experts": Stage(lambda s, o: train_experts(s, o.poles, resume=o.resume), experts_work),
    "rewards": Stage(lambda s, o: train_rewards(s, resume=o.resume), rewards_work),
    "verdicts": Stage(
        lambda s, o: run_in_fresh_thread(calibrate, s, o.tell, resume=o.resume), checked_verdicts
    ),
    "references": Stage(references, references_work),
    "static": Stage(static, static_work),
    "pcm": Stage(pcm, pcm_work),
}
"""By name, in the order in which one needs the other."""


def lines(setup: TrainingContext, works: Sequence[Work], *, measure: bool) -> str:
    """One line per stage; with ``measure`` also its estimated time, from a few steps run here."""
    rates = run_in_fresh_thread(_rates, setup, works) if measure else {}
    return "\n".join(_line(work, rates) for work in works)


def _line(work: Work, rates: Mapping[str, float]) -> str:
    parts = [f"{work.steps:,} steps"] if work.steps else []
    parts += [f"{work.learned:,} tokens to learn from"] if work.learned else []
    parts += [f"up to {work.generated:,} tokens to generate"] if work.generated else []
    if rates:
        learning = work.learned / rates["learn"] if work.learned else 0.0
        generating = work.generated / rates["generate"] if work.generated else 0.0
        parts.append(f"about {(learning + generating) / 60:.0f} minutes")
    return f"{work.name}: {', '.join(parts)}"


def _rates(setup: TrainingContext, works: Sequence[Work]) -> dict[str, float]:
    """Tokens per second of training and of generation."""
    rates = {}
    if any(work.learned for work in works):
        rates["learn"] = _learning_rate(setup)
    if any(work.generated for work in works):
        rates["generate"] = _generating_rate(setup)
    return rates


def _learning_rate(setup: TrainingContext) -> float:
    model: Any = setup.causal_lm(setup.recipe.lora)
    rows = setup.styles.split("train")[: setup.recipe.sft.batch]
    texts = [setup.prompt(row.prompt) + next(iter(row.answers.values())) for row in rows]
    batch = setup.tokenizer(texts, return_tensors="pt", padding=True).to(model.device)

    def step() -> None:
        with torch.autocast(model.device.type, torch.bfloat16):
            model(**batch, labels=batch["input_ids"]).loss.backward()

    step()  # the trunk's states, which later epochs find known
    start = time.monotonic()
    step()
    return int(batch["attention_mask"].sum()) / (time.monotonic() - start)


def _generating_rate(setup: TrainingContext) -> float:
    codes = setup.pack.space.codes
    prompts = [row.prompt for row in setup.styles.split("train")]
    asks = rollouts.every(prompts, codes, 1, 0)[:PROBE_REPLIES]
    with Engine.open(setup.pack) as engine:
        start = time.monotonic()
        replies = rollouts.run(engine, asks, Sampling(PROBE_TOKENS, temperature=1.0))
        return sum(len(reply.tokens) for reply in replies) / (time.monotonic() - start)
