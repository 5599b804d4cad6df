"""Training of the Preference Control Model: sample, judge, learn, and again."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, pstdev

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from mpd_core.engine import Engine
from mpd_core.models.adapters import WEIGHTS_FILE
from mpd_core.models.threads import passing
from mpd_core.packs import Pack, file_sha256
from mpd_core.training import rollouts
from mpd_core.training.assemble import working_pack
from mpd_core.training.judge import Judge, Judged, References, RewardJudge
from mpd_core.training.policy import Collator, Policy, load_state, save_state
from mpd_core.training.rewards import reward_folder
from mpd_core.training.rollouts import Reply
from mpd_core.training.scoring import RewardModels
from mpd_core.training.setup import Setup
from mpd_core.training.trainer import ADAPTER, HEAD, METRICS, write_metrics
from mpd_core.training.updates import PPO, REBEL, Algorithm, Memory, moved, remember, take

STATE = "state.safetensors"
REPLIES_AT_ONCE = 16
"""Replies of one forward pass of the PCM; whole groups."""


Entry = dict[str, float]
"""What is noted of one iteration."""


def history(folder: Path) -> list[Entry]:
    """The log of a PCM's training, one entry a finished iteration."""
    lines = (folder / METRICS).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def pcm_folder(setup: Setup) -> Path:
    """Where this recipe's PCM lies; each algorithm and reward has a folder of its own."""
    spec = setup.recipe.pcm
    return setup.out / "pcm" / f"{spec.algorithm}-{spec.reward}"


def prompts_of(setup: Setup, iteration: int) -> list[str]:
    """The prompts of an iteration: the training split in a seeded order, round and round."""
    prompts = [row.prompt for row in setup.styles.split("train")]
    random.Random(setup.recipe.seed).shuffle(prompts)
    count = setup.recipe.pcm.rollouts.prompts
    return [prompts[(iteration * count + k) % len(prompts)] for k in range(count)]


def train_pcm(
    setup: Setup,
    *,
    resume: bool,
    tell: Callable[[str], None] = print,
    judge: Judge | None = None,
) -> None:
    """Train from the zero head, or from the last finished iteration.

    Args:
        setup: with trained experts and reward models.
        resume: go on where a run was cut off.
        tell: is told one line an iteration.
        judge: default: the reward models against the references.

    Raises:
        PackError: experts or reward models are missing.
    """
    folder = pcm_folder(setup)
    if not resume:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    set_seed(setup.recipe.seed)
    trainer = passing(Trainer, setup, folder)
    trainer.run(judge or passing(reward_judge, setup), tell)
    weights = file_sha256(folder / ADAPTER / WEIGHTS_FILE)
    head = file_sha256(folder / HEAD)
    setup.record(folder, "pcm", weights_sha256=weights, head_sha256=head)


class Trainer:
    """The state between iterations: a policy, its optimiser, and the log."""

    def __init__(self, setup: Setup, folder: Path) -> None:
        self._setup = setup
        self._spec = setup.recipe.pcm
        self._folder = folder
        self._accelerator = Accelerator()
        self._policy = Policy(setup)
        groups = self._policy.parameter_groups(self._spec.lr, self._spec.head_lr)
        self._optimiser = torch.optim.AdamW(groups, weight_decay=0.0)
        self._collate = Collator(setup)
        self._learner = Learner(setup, self._policy, self._optimiser, self._accelerator)
        self._history: list[Entry] = []
        if (folder / STATE).is_file():
            self._history = history(folder)
            load_state(folder / STATE, self._policy, self._optimiser)
            self._learner.updates = int(self._history[-1]["updates"])

    def run(self, judge: Judge, tell: Callable[[str], None]) -> None:
        """Every iteration that is left."""
        for iteration in range(len(self._history), self._spec.iterations):
            entry = self._iterate(iteration, judge)
            self._history.append(entry)
            passing(self._keep)
            tell(
                f"iteration {iteration + 1}/{self._spec.iterations}: "
                f"reward {entry['reward']:.4f}, loss {entry['loss']:.4f}, "
                f"divergence {entry['divergence']:.4f}, {entry['seconds']:.0f} s"
            )

    def _iterate(self, iteration: int, judge: Judge) -> Entry:
        start = time.monotonic()
        replies = self._sample(iteration, judge)
        sampled = time.monotonic()
        judged = passing(judge.judge, replies)
        scored = time.monotonic()
        learned = passing(self._learner.learn, replies, self._rewards(judged), iteration)
        end = time.monotonic()
        return {
            "step": iteration + 1.0,
            **_summary(judged),
            **learned,
            "updates": float(self._learner.updates),
            "seconds": end - start,
            "seconds_sampling": sampled - start,
            "seconds_scoring": scored - sampled,
            "seconds_learning": end - scored,
        }

    def _sample(self, iteration: int, judge: Judge) -> list[Reply]:
        file = self._folder / "rollouts" / f"{iteration:03d}.jsonl"
        spec, prompts = self._spec.rollouts, prompts_of(self._setup, iteration)
        codes = [preference.code for preference in self._setup.pack.space]
        engine = Engine.open(passing(self._pack))
        try:
            judge.prepare(engine, prompts, codes)
            if file.is_file():  # cut off after sampling: the policy is still the same
                return rollouts.load(file)
            seed = (self._setup.recipe.seed * 1000 + iteration) * 100_000 % 2**31
            asks = rollouts.every(prompts, codes, spec.samples, seed)
            replies = rollouts.run(engine, asks, rollouts.learning(spec.max_new_tokens))
        finally:
            engine.close()
        rollouts.save(file, replies)
        return replies

    def _pack(self) -> Pack:
        self._policy.save(self._folder)
        return working_pack(self._setup, self._folder / "pack", self._folder)

    def _rewards(self, judged: Sequence[Judged]) -> torch.Tensor:
        direct = self._spec.reward == "direct"
        penalty = self._spec.rollouts.unfinished
        return torch.tensor(
            [
                (j.direct if direct else j.reward) - (0.0 if j.reply.finished else penalty)
                for j in judged
            ]
        )

    def _keep(self) -> None:
        self._policy.save(self._folder)
        save_state(self._folder / STATE, self._policy, self._optimiser)
        write_metrics(self._folder, f"PCM: {self._folder.name}", self._history)


class Learner:
    """Some passes over one iteration's replies."""

    def __init__(
        self,
        setup: Setup,
        policy: Policy,
        optimiser: torch.optim.Optimizer,
        accelerator: Accelerator,
    ) -> None:
        self._spec = setup.recipe.pcm
        self._seed = setup.recipe.seed
        self._policy = policy
        self._optimiser = optimiser
        self._accelerator = accelerator
        self._collate = Collator(setup)
        self._rates = [group["lr"] for group in optimiser.param_groups]
        self._algorithm: Algorithm = (
            REBEL(self._spec.rebel) if self._spec.algorithm == "rebel" else PPO(self._spec.ppo)
        )
        self.updates = 0

    def learn(self, replies: Sequence[Reply], rewards: torch.Tensor, iteration: int) -> Entry:
        """Change the policy; a pass that diverges is undone, and is the last.

        Returns:
            Loss before and after, divergence from the sampling policy, and how weights move.
        """
        group = self._spec.rollouts.samples
        size = max(1, REPLIES_AT_ONCE // group) * group
        memory = remember(self._policy, self._collate, replies, rewards, group, size)
        order = random.Random(self._seed * 1000 + iteration)
        before = self._measure(memory)
        found = before
        undone = 0.0
        for _ in range(self._spec.passes):
            kept = {name: tensor.clone() for name, tensor in self._policy.trained().items()}
            self._pass(memory, order)
            found = self._measure(memory)
            if not found["loss"] < self._spec.guard * max(before["loss"], 1e-6):
                self._policy.restore(kept)
                found, undone = self._measure(memory), 1.0
                break
        start = {f"{name}_before": before[name] for name in ("loss", "entropy", "weights_std")}
        return {**found, **start, "undone": undone}

    def _pass(self, memory: Memory, order: random.Random) -> None:
        groups = list(range(len(memory.replies) // memory.group))
        order.shuffle(groups)
        for start in range(0, len(groups), self._spec.batch):
            self._update(memory, groups[start : start + self._spec.batch])

    def _update(self, memory: Memory, groups: Sequence[int]) -> None:
        self.updates += 1
        scale = min(1.0, self.updates / max(1, self._spec.warmup))
        for settings, rate in zip(self._optimiser.param_groups, self._rates, strict=True):
            settings["lr"] = rate * scale
        self._optimiser.zero_grad()
        for some in self._split(memory, groups):
            piece = take(memory, self._collate, some, self._policy.device)
            log_probs, _, values = self._policy.log_probs(piece.batch)
            loss = self._algorithm(piece, log_probs, values) * len(some) / len(groups)
            self._accelerator.backward(loss)
        parameters = [p for g in self._optimiser.param_groups for p in g["params"]]
        self._accelerator.clip_grad_norm_(parameters, 1.0)
        self._optimiser.step()

    @torch.no_grad()
    def _measure(self, memory: Memory) -> Entry:
        groups = list(range(len(memory.replies) // memory.group))
        found: list[Entry] = []
        for some in self._split(memory, groups):
            piece = take(memory, self._collate, some, self._policy.device)
            log_probs, weights, values = self._policy.log_probs(piece.batch)
            loss = self._algorithm(piece, log_probs, values)
            found.append(asdict(moved(piece, loss, log_probs, weights)))
        return {name: fmean(entry[name] for entry in found) for name in found[0]}

    def _split(self, memory: Memory, groups: Sequence[int]) -> list[Sequence[int]]:
        size = max(1, REPLIES_AT_ONCE // memory.group)
        return [groups[start : start + size] for start in range(0, len(groups), size)]


def reward_judge(setup: Setup) -> RewardJudge:
    """The trained reward models against the recipe's references."""
    folders = {pole.name: reward_folder(setup, pole) for pole in setup.pack.space.poles}
    return RewardJudge(setup.pack.space, RewardModels(setup, folders), references_of(setup))


def references_of(setup: Setup) -> References:
    """The baseline's replies, under the pack's own decode setting."""
    spec = setup.recipe.references
    sampling = setup.pack.spec.decode.sampling(max_new_tokens=spec.max_new_tokens)
    return References(setup.out / "references" / f"{spec.method}.jsonl", spec.method, sampling)


def _summary(judged: Sequence[Judged]) -> Entry:
    rewards = [entry.reward for entry in judged]
    by_code: dict[str, list[float]] = {}
    for entry in judged:
        by_code.setdefault(entry.reply.preference, []).append(entry.reward)
    return {
        "reward": fmean(rewards),
        "reward_std": pstdev(rewards),
        "finished": fmean(entry.reply.finished for entry in judged),
        "tokens": fmean(len(entry.reply.tokens) for entry in judged),
        **{f"reward_{code}": fmean(values) for code, values in sorted(by_code.items())},
    }
