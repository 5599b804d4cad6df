"""Training of the Preference Control Model: the loop of sampling, scoring and updating."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, pstdev

import torch
from accelerate.utils import set_seed

from mpd_core.engine import Engine
from mpd_core.errors import PackError
from mpd_core.method.static import uniform
from mpd_core.method.weight_head import FORMERLY, PAIR_BIAS
from mpd_core.models.base import fastest_precision
from mpd_core.models.threads import run_in_fresh_thread
from mpd_core.packs import file_sha256
from mpd_core.request import Sampling
from mpd_core.training import checkpoint, rollouts
from mpd_core.training.adapters.experts import experts_key
from mpd_core.training.adapters.rewards import rewards_key
from mpd_core.training.context import RECORD, TrainingContext
from mpd_core.training.export import trained_pack
from mpd_core.training.pcm import static_search as static
from mpd_core.training.pcm.learner import Entry, Learner
from mpd_core.training.pcm.policy import Policy
from mpd_core.training.pcm.supervised_gate import fit_gate_to_answers, fit_mean_weights
from mpd_core.training.pcm.token_scores import Credit, token_credit
from mpd_core.training.results import HEAD, write_metrics
from mpd_core.training.rollouts import Rollout
from mpd_core.training.scoring.reward_function import (
    RewardFunction,
    ScoredReply,
    reward_function,
    reward_of,
)

STATE = "state.safetensors"
LOG, EXPERTS, REWARDS = "log", "experts", "rewards"
"""Metadata keys of a state file: the log so far, as JSON, and ``experts_key`` of whom the policy
weighs."""


def pcm_folder(setup: TrainingContext) -> Path:
    """Folder of this recipe's PCM; each algorithm and reward has its own."""
    spec = setup.recipe.pcm
    return setup.out / "pcm" / f"{spec.algorithm}-{spec.reward}"


def prompts_of(setup: TrainingContext, iteration: int) -> list[str]:
    """Prompts of an iteration, taken in turn from the shuffled training split, cyclically."""
    prompts = [row.prompt for row in setup.styles.split("train")]
    random.Random(setup.recipe.seed).shuffle(prompts)
    count = setup.recipe.pcm.rollouts.prompts
    return [prompts[(iteration * count + k) % len(prompts)] for k in range(count)]


def train_pcm(
    setup: TrainingContext,
    *,
    resume: bool,
    tell: Callable[[str], None] = print,
    reward: RewardFunction | None = None,
) -> None:
    """Train from the initial policy, or continue after the last finished iteration.

    ``tell`` is told one line an iteration; ``reward`` is, unless given, that of the reward models
    against the references.

    Raises:
        PackError: experts or reward models are missing.
    """
    folder = pcm_folder(setup)
    if not resume:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD).unlink(missing_ok=True)
    set_seed(setup.recipe.seed)
    trainer = run_in_fresh_thread(Trainer, setup, folder)
    trainer.run(reward or run_in_fresh_thread(reward_function, setup), tell)
    setup.record(folder, "pcm", head_sha256=file_sha256(folder / HEAD))


class Trainer:
    """State kept between iterations: the policy, its optimiser and the log."""

    def __init__(self, setup: TrainingContext, folder: Path) -> None:
        self._setup = setup
        self._spec = setup.recipe.pcm
        self._folder = folder
        self._policy = Policy(setup)
        groups = self._policy.parameter_groups(self._spec)
        self._optimiser = torch.optim.AdamW(groups, weight_decay=0.0)
        self._learner = Learner(setup, self._policy, self._optimiser)
        self._history: list[Entry] = []
        if (folder / STATE).is_file():
            self._take_up()

    def run(self, reward: RewardFunction, tell: Callable[[str], None]) -> None:
        """Run all remaining iterations."""
        if not (self._folder / STATE).is_file():
            run_in_fresh_thread(self._begin, tell)
        for iteration in range(len(self._history), self._spec.iterations):
            entry = self._iterate(iteration, reward)
            self._history.append(entry)
            run_in_fresh_thread(self._keep)
            tell(
                f"iteration {iteration + 1}/{self._spec.iterations}: "
                f"reward {entry['reward']:.4f}, loss {entry['loss']:.4f}, "
                f"divergence {entry['divergence']:.4f}, {entry['seconds']:.0f} s"
            )

    def _iterate(self, iteration: int, reward: RewardFunction) -> Entry:
        start = time.monotonic()
        replies = self._sample(iteration, reward)
        sampled = time.monotonic()
        scored = run_in_fresh_thread(reward.score, replies)
        rewards = torch.tensor([reward_of(entry, self._spec) for entry in scored])
        credits: Sequence[Credit] = ()
        told: Entry = {}
        if self._spec.algorithm == "token_credit":
            credits, told = run_in_fresh_thread(token_credit, self._setup, scored, rewards)
        end_of_scoring = time.monotonic()
        learned = run_in_fresh_thread(self._learner.learn, replies, rewards, iteration, credits)
        end = time.monotonic()
        return {
            "step": iteration + 1.0,
            **_summary(scored),
            **told,
            **learned,
            "updates": float(self._learner.updates),
            "seconds": end - start,
            "seconds_sampling": sampled - start,
            "seconds_scoring": end_of_scoring - sampled,
            "seconds_learning": end - end_of_scoring,
        }

    def _sample(self, iteration: int, reward: RewardFunction) -> list[Rollout]:
        file = self._folder / "rollouts" / f"{iteration:03d}.jsonl"
        spec, prompts = self._spec.rollouts, prompts_of(self._setup, iteration)
        codes = self._setup.pack.space.codes
        run_in_fresh_thread(self._policy.save, self._folder)
        pack = run_in_fresh_thread(trained_pack, self._setup, self._folder)
        with Engine.open(pack, precision=fastest_precision()) as engine:
            reward.prepare(engine, prompts, codes)
            if file.is_file():  # cut off after sampling: the policy is still the same
                return rollouts.load(file)
            seed = (self._setup.recipe.seed * 1000 + iteration) * 100_000 % 2**31
            asks = rollouts.every(prompts, codes, spec.samples, seed)
            sampling = Sampling(spec.max_new_tokens, temperature=spec.temperature)
            replies = rollouts.run(engine, asks, sampling)
        rollouts.save(file, replies)
        return replies

    def _begin(self, tell: Callable[[str], None]) -> None:
        """Initialise the policy as the recipe says; cached on disk, since it may take minutes."""
        spec, space = self._spec, self._setup.pack.space
        token_scores = None
        if spec.answers:
            log = self._folder / "answers"
            figures, token_scores = fit_gate_to_answers(
                self._setup, self._policy, spec.answers, log
            )
            tell(
                "written answers, held out, nats a token: {held_loss:.4f} (uniform weights "
                "{held_loss_uniform:.4f}, best constant {held_loss_constant:.4f})".format(**figures)
            )
        if spec.imitate_static or token_scores:
            targets: Mapping[str, Sequence[float]]
            targets = {p.code: uniform(len(p.poles)) for p in space}
            if spec.imitate_static:
                file = static.result(self._setup)
                if not file.is_file():
                    raise PackError(
                        f"pcm.imitate_static: {file} is missing: run train static first."
                    )
                targets = static.best_weights(file)
            distance = fit_mean_weights(self._policy.head, space, targets, token_scores)
            tell(f"mean weights imitated: mean distance {distance:.3f}")
        self._keep()

    def _take_up(self) -> None:
        """Go on from what ``_keep`` wrote.

        Raises:
            PackError: the experts or the reward models have changed since: rewards and log would
                not go together.
        """
        file = self._folder / STATE
        facts = checkpoint.facts_of(file)
        if facts.get(EXPERTS) != experts_key(self._setup):
            raise PackError(f"{file} belongs to other experts: train the PCM without --resume.")
        if facts.get(REWARDS, rewards_key(self._setup)) != rewards_key(self._setup):
            raise PackError(f"{file} belongs to other rewards: train the PCM without --resume.")
        former = {f"head.{FORMERLY}": f"head.{PAIR_BIAS}"}
        checkpoint.load(file, self._policy, self._optimiser, former)
        self._history = json.loads(facts[LOG])
        self._learner.updates = int(self._history[-1]["updates"]) if self._history else 0

    def _keep(self) -> None:
        self._policy.save(self._folder)
        facts = {
            LOG: json.dumps(self._history),
            EXPERTS: experts_key(self._setup),
            REWARDS: rewards_key(self._setup),
        }
        checkpoint.save(self._folder / STATE, self._policy, self._optimiser, facts)
        write_metrics(self._folder, f"PCM: {self._folder.name}", self._history)


def _summary(scored: Sequence[ScoredReply]) -> Entry:
    rewards = [entry.reward for entry in scored]
    by_code: dict[str, list[float]] = {}
    for entry in scored:
        by_code.setdefault(entry.reply.preference, []).append(entry.reward)
    return {
        "reward": fmean(rewards),
        "reward_std": pstdev(rewards),
        "finished": fmean(entry.reply.finished for entry in scored),
        "tokens": fmean(len(entry.reply.tokens) for entry in scored),
        **{f"reward_{code}": fmean(values) for code, values in sorted(by_code.items())},
    }
