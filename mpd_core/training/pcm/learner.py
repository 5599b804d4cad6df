"""Several epochs over one iteration's replies, with a guard against divergence."""

from __future__ import annotations

import random
from collections.abc import Sequence
from copy import deepcopy
from statistics import fmean
from typing import Any

import torch
from tqdm import tqdm

from mpd_core.training import checkpoint
from mpd_core.training.context import TrainingContext
from mpd_core.training.pcm.batches import Collator
from mpd_core.training.pcm.policy import Policy
from mpd_core.training.pcm.token_scores import Credit
from mpd_core.training.pcm.updates import ALGORITHMS, RolloutBuffer, best_of_each, update_stats
from mpd_core.training.rollouts import Rollout

Entry = dict[str, float]
"""Log entry of one iteration."""


class Learner:
    """Updates the policy over several epochs of one iteration's replies."""

    def __init__(
        self, setup: TrainingContext, policy: Policy, optimiser: torch.optim.Optimizer
    ) -> None:
        self._spec = setup.recipe.pcm
        self._seed = setup.recipe.seed
        self._policy = policy
        self._optimiser = optimiser
        self._collate = Collator(setup)
        self._rates = [group["lr"] for group in optimiser.param_groups]
        self._algorithm = ALGORITHMS[self._spec.algorithm]
        self.updates = 0

    def learn(
        self,
        replies: Sequence[Rollout],
        rewards: torch.Tensor,
        iteration: int,
        credits: Sequence[Credit] = (),
    ) -> Entry:
        """Update the policy; an epoch that diverges is rolled back, moments too, and is the last.

        Groups of replies lie together; ``iteration`` settles the order of updates, and ``credits``
        are of each reply, where the algorithm goes by tokens.

        Returns:
            Loss before and after, divergence from the sampling policy, and how weights move.
        """
        group = self._spec.rollouts.samples
        if self._spec.algorithm == "best_of":
            replies, rewards = best_of_each(replies, rewards, group)
            group = 1
        buffer = RolloutBuffer(replies, rewards, group, credits)
        buffer.ask(self._policy, self._collate)
        order = random.Random(self._seed * 1000 + iteration)
        before = self._measure(buffer, now=False)
        limit = self._spec.guard * max(before["loss"], 1e-6)
        undone = 0.0
        for _ in range(self._spec.passes):
            kept = (
                {name: tensor.clone() for name, tensor in checkpoint.trained(self._policy).items()},
                deepcopy(self._optimiser.state_dict()),
            )
            if not self._pass(buffer, order) < limit:
                undone = 1.0
                self._restore(*kept)
                break
        found = self._measure(buffer, now=True)
        if not undone and not found["loss"] < limit:
            undone = 1.0
            self._restore(*kept)
            found = self._measure(buffer, now=True)
        start = {f"{name}_before": before[name] for name in ("loss", "entropy", "weights_std")}
        return {**found, **start, "undone": undone}

    def _restore(self, weights: dict[str, torch.Tensor], moments: dict[str, Any]) -> None:
        checkpoint.restore(self._policy, weights)
        self._optimiser.load_state_dict(moments)

    def _pass(self, buffer: RolloutBuffer, order: random.Random) -> float:
        """One epoch, with one update per batch of groups; returns the mean loss."""
        groups = buffer.groups
        order.shuffle(groups)
        starts = range(0, len(groups), self._spec.batch)
        bar = tqdm(starts, desc="updates", leave=False)
        return fmean(self._update(buffer, groups[k : k + self._spec.batch]) for k in bar)

    def _update(self, buffer: RolloutBuffer, groups: Sequence[int]) -> float:
        """One optimiser step on some groups, at rates that rise at first; returns their loss."""
        self.updates += 1
        scale = min(1.0, self.updates / max(1, self._spec.warmup))
        for settings, rate in zip(self._optimiser.param_groups, self._rates, strict=True):
            settings["lr"] = rate * scale
        self._optimiser.zero_grad()
        total = 0.0
        for some in buffer.passes(groups):
            data = buffer.minibatch(self._collate, some, self._policy.device)
            said = self._policy.log_probs(data.batch)
            loss = self._algorithm(data, said, self._spec) * len(some) / len(groups)
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        parameters = [p for g in self._optimiser.param_groups for p in g["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        self._optimiser.step()
        return total

    @torch.no_grad()
    def _measure(self, buffer: RolloutBuffer, *, now: bool) -> Entry:
        """Log entry of the current policy, or of the one that sampled the replies."""
        found: list[Entry] = []
        for some in buffer.passes(buffer.groups):
            data = buffer.minibatch(self._collate, some, self._policy.device)
            said = self._policy.log_probs(data.batch) if now else data.old
            loss = self._algorithm(data, said, self._spec)
            found.append(update_stats(data, loss, said))
        return {name: fmean(entry[name] for entry in found) for name in found[0]}
