"""The losses that update the PCM from replies with rewards, by the recipe's ``algorithm``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mpd_core.method.ppo import masked_mean, ppo_loss
from mpd_core.method.rebel import rebel_loss
from mpd_core.method.token_credit import token_credit_loss
from mpd_core.training.pcm.batches import Batch, Collator, padded_tables
from mpd_core.training.pcm.policy import (
    Policy,
    PolicyOutput,
    likely_log_probs,
    reply_log_probs,
)
from mpd_core.training.pcm.token_scores import Credit, stacked
from mpd_core.training.pcm_recipe import PCMTrainSpec
from mpd_core.training.rollouts import Rollout
from mpd_core.training.trunk import padded

REPLIES_AT_ONCE = 16
"""Replies of one forward pass of the PCM; whole groups."""


@dataclass(frozen=True)
class Minibatch:
    """Some groups of replies as tensors; axes as in ``batches.Batch``."""

    batch: Batch
    rewards: Tensor
    """[N]."""
    old: PolicyOutput
    """Of the policy that sampled the replies."""
    group: int
    """Replies per group; those of one prompt and preference are a group, and contiguous."""
    credit: Credit | None = None


@dataclass(frozen=True)
class RolloutBuffer:
    """An iteration's replies with their rewards, and what the sampling policy said of each."""

    replies: Sequence[Rollout]
    rewards: Tensor
    """[N]."""
    group: int
    """As in ``Minibatch``."""
    credits: Sequence[Credit] = ()
    """Of each reply, for algorithms that go by tokens."""
    old: dict[int, PolicyOutput] = field(default_factory=dict)
    """By reply; not padded."""

    @property
    def groups(self) -> list[int]:
        """All of them, by number."""
        return list(range(len(self.replies) // self.group))

    def places(self, groups: Sequence[int]) -> list[int]:
        """Where the replies of some groups are."""
        return [g * self.group + k for g in groups for k in range(self.group)]

    def passes(self, groups: Sequence[int]) -> list[list[int]]:
        """Some groups in forward passes of about ``REPLIES_AT_ONCE`` replies of similar length."""

        def length(group: int) -> int:
            return sum(len(self.replies[i].tokens) for i in self.places([group]))

        ordered, step = sorted(groups, key=length), max(1, REPLIES_AT_ONCE // self.group)
        return [ordered[start : start + step] for start in range(0, len(ordered), step)]

    @torch.no_grad()
    def ask(self, policy: Policy, collate: Collator) -> None:
        """Note what the policy, before any update, says of the replies."""
        for some in self.passes(self.groups):
            places = self.places(some)
            batch = collate([self.replies[i] for i in places]).to(policy.device)
            said = (part.cpu() for part in policy.log_probs(batch))
            for i, log_probs, alpha, values in zip(places, *said, strict=True):
                length, experts = len(self.replies[i].tokens), len(self.replies[i].weights[0])
                own = log_probs[:length], alpha[:length, :experts], values[:length]
                self.old[i] = PolicyOutput(*own)

    def minibatch(
        self, collate: Collator, groups: Sequence[int], device: torch.device
    ) -> Minibatch:
        """The minibatch of some groups."""
        places = self.places(groups)
        log_probs, weights, values = zip(*(self.old[i] for i in places), strict=True)
        old = padded(log_probs), padded_tables(weights), padded(values)
        return Minibatch(
            batch=collate([self.replies[i] for i in places]).to(device),
            rewards=self.rewards[places].to(device),
            old=PolicyOutput(*(part.to(device) for part in old)),
            group=self.group,
            credit=stacked([self.credits[i] for i in places], device) if self.credits else None,
        )


def rebel(data: Minibatch, said: PolicyOutput, spec: PCMTrainSpec) -> Tensor:
    """Regress log-ratios of replies onto differences of their rewards; see ``method.rebel``."""
    ratios = (said.log_probs - data.old.log_probs).sum(dim=1).view(-1, data.group)
    return rebel_loss(ratios, data.rewards.view(-1, data.group), spec.rebel.eta)


def ppo(data: Minibatch, said: PolicyOutput, spec: PCMTrainSpec) -> Tensor:
    """Proximal policy optimisation with a penalty on leaving MPD (Uniform); see ``method.ppo``."""
    here = (data.batch.poles >= 0)[:, None, :].expand(-1, data.batch.mask.shape[1], -1)
    uniform = here / here.sum(dim=-1, keepdim=True)
    return ppo_loss(
        said.log_probs,
        said.values,
        old_log_probs=data.old.log_probs,
        old_values=data.old.values,
        reference_log_probs=reply_log_probs(data.batch, uniform, spec.rollouts.temperature),
        rewards=data.rewards,
        mask=data.batch.mask,
        **spec.ppo.model_dump(),
    )


def best_of(data: Minibatch, said: PolicyOutput, _: PCMTrainSpec) -> Tensor:
    """Expert iteration (Anthony et al., 2017) on what ``best_of_each`` leaves: the likelihood of
    the mixture, as the supervised start has it, here at the temperature of sampling, under which
    replies that nobody had picked would teach nothing on average."""
    return -masked_mean(said.log_probs, data.batch.mask)


def token_credit(data: Minibatch, said: PolicyOutput, spec: PCMTrainSpec) -> Tensor:
    """REBEL's regression with an advantage for each token; see ``method.token_credit``."""
    if data.credit is None:
        raise ValueError("algorithm 'token_credit' needs the credit of each token")
    temperature = spec.rollouts.temperature
    return token_credit_loss(
        likely_log_probs(data.batch, said.weights, temperature),
        old_log_probs=likely_log_probs(data.batch, data.old.weights, temperature),
        scores=data.credit.scores,
        later=data.credit.later,
        mask=data.batch.mask,
        eta=spec.token_credit.eta,
    )


Algorithm = Callable[[Minibatch, PolicyOutput, PCMTrainSpec], Tensor]
"""Loss of a minibatch under the current policy, averaged as the algorithm defines it."""
ALGORITHMS: Mapping[str, Algorithm] = {
    "rebel": rebel,
    "ppo": ppo,
    "best_of": best_of,
    "token_credit": token_credit,
}


def best_of_each(
    replies: Sequence[Rollout], rewards: Tensor, group: int
) -> tuple[list[Rollout], Tensor]:
    """Of each group the reply with the largest reward, and its reward; groups without a best one,
    all of whose rewards are equal, are left out unless all are like that."""
    table = rewards.view(-1, group)
    apart = table.amax(dim=1) > table.amin(dim=1)
    rows = torch.arange(len(table))[apart if apart.any() else ~apart]
    best = rows * group + table[rows].argmax(dim=1)
    return [replies[int(k)] for k in best], rewards[best]


def update_stats(data: Minibatch, loss: Tensor, said: PolicyOutput) -> dict[str, float]:
    """What the log says of a minibatch after an update.

    Beside the loss ``divergence``, KL(pi_old || pi) per token in nats (k3 estimator, non-negative),
    ``weights_std``, the standard deviation of a weight over tokens, mean over experts, and
    ``entropy`` of the weights relative to uniform ones, 0 to 1.
    """
    ratio = said.log_probs - data.old.log_probs
    own = said.weights[data.batch.mask]
    entropy = -torch.special.xlogy(own, own).sum(-1).mean() / math.log(max(2, own.shape[-1]))
    return {
        "loss": float(loss),
        "divergence": float(masked_mean(ratio.exp() - 1 - ratio, data.batch.mask)),
        "weights_std": float(own.std(dim=0).mean()),
        "entropy": float(entropy),
    }
