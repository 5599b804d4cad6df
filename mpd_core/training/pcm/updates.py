"""The losses that update the PCM from replies with rewards, by the recipe's ``algorithm``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mpd_core.method.ppo import masked_mean, ppo_loss
from mpd_core.method.rebel import rebel_loss
from mpd_core.method.token_credit import token_credit_loss
from mpd_core.training.pcm.batches import Batch, Collator, padded_tables
from mpd_core.training.pcm.policy import Policy, likely_log_probs, reply_log_probs
from mpd_core.training.pcm.token_scores import Credit, stacked
from mpd_core.training.pcm_recipe import PCMTrainSpec
from mpd_core.training.rollouts import Rollout


@dataclass(frozen=True)
class RolloutBuffer:
    """Replies with rewards and the sampling policy's outputs; lists have one entry per reply."""

    replies: Sequence[Rollout]
    rewards: Tensor
    """[N]."""
    old_log_probs: Sequence[Tensor]
    """ln pi_old of each token, [T]."""
    weights: Sequence[Tensor]
    """alpha, [T, E]."""
    values: Sequence[Tensor]
    """The critic's, [T]."""
    group: int
    """Replies per group; those of one prompt and preference are a group, and contiguous."""
    credits: Sequence[Credit] = ()
    """Token credits, for algorithms that use them."""


@dataclass(frozen=True)
class Minibatch:
    """A minibatch of the buffer as tensors; axes as in ``batches.Batch``."""

    batch: Batch
    rewards: Tensor
    old_log_probs: Tensor
    weights: Tensor
    values: Tensor
    group: int
    credit: Credit | None = None


class PolicyOutput(NamedTuple):
    """Output of a policy on N replies of at most T tokens."""

    log_probs: Tensor
    """ln pi of each token, [N, T]."""
    weights: Tensor
    """alpha, [N, T, E]."""
    values: Tensor
    """The critic's, [N, T]."""


def rebel(data: Minibatch, said: PolicyOutput, spec: PCMTrainSpec) -> Tensor:
    """Regress log-ratios of replies onto differences of their rewards; see ``method.rebel``."""
    ratios = (said.log_probs - data.old_log_probs).sum(dim=1).view(-1, data.group)
    return rebel_loss(ratios, data.rewards.view(-1, data.group), spec.rebel.eta)


def ppo(data: Minibatch, said: PolicyOutput, spec: PCMTrainSpec) -> Tensor:
    """Proximal policy optimisation with a penalty on leaving MPD (Uniform); see ``method.ppo``."""
    return ppo_loss(
        said.log_probs,
        said.values,
        old_log_probs=data.old_log_probs,
        old_values=data.values,
        reference_log_probs=uniform_log_probs(data.batch, spec.rollouts.temperature),
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
        old_log_probs=likely_log_probs(data.batch, data.weights, temperature),
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


def uniform_log_probs(batch: Batch, temperature: float) -> Tensor:
    """ln pi of MPD (Uniform), [N, T]."""
    here = (batch.poles >= 0)[:, None, :].expand(-1, batch.mask.shape[1], -1)
    return reply_log_probs(batch, here / here.sum(dim=-1, keepdim=True), temperature)


def split(
    replies: Sequence[Rollout], group: int, groups: Sequence[int], size: int
) -> list[list[int]]:
    """Split groups into forward passes of about ``size`` replies, sorted by length."""
    ordered = sorted(
        groups, key=lambda g: sum(len(r.tokens) for r in replies[g * group : (g + 1) * group])
    )
    step = max(1, size // group)
    return [ordered[start : start + step] for start in range(0, len(ordered), step)]


@torch.no_grad()
def rollout_buffer(
    policy: Policy,
    collate: Collator,
    replies: Sequence[Rollout],
    rewards: Tensor,
    group: int,
    size: int,
    credits: Sequence[Credit] = (),
) -> RolloutBuffer:
    """Fill a rollout buffer: run the policy, before any update, on the replies."""
    nothing = [torch.empty(0)] * len(replies)
    log_probs, weights, values = list(nothing), list(nothing), list(nothing)
    for some in split(replies, group, range(len(replies) // group), size):
        index = [g * group + k for g in some for k in range(group)]
        batch = collate([replies[i] for i in index]).to(policy.device)
        said, alpha, critic = (part.cpu() for part in policy.log_probs(batch))
        for row, i in enumerate(index):
            length, experts = len(replies[i].tokens), len(replies[i].weights[0])
            log_probs[i] = said[row, :length]
            weights[i] = alpha[row, :length, :experts]
            values[i] = critic[row, :length]
    return RolloutBuffer(replies, rewards, log_probs, weights, values, group, credits)


def minibatch(
    buffer: RolloutBuffer, collate: Collator, groups: Sequence[int], device: torch.device
) -> Minibatch:
    """The minibatch of some groups."""
    index = [g * buffer.group + k for g in groups for k in range(buffer.group)]
    batch = collate([buffer.replies[i] for i in index]).to(device)

    def padded(rows: Sequence[Tensor]) -> Tensor:
        return nn.utils.rnn.pad_sequence([rows[i] for i in index], batch_first=True).to(device)

    return Minibatch(
        batch=batch,
        rewards=buffer.rewards[index].to(device),
        old_log_probs=padded(buffer.old_log_probs),
        weights=padded_tables([buffer.weights[i] for i in index]).to(device),
        values=padded(buffer.values),
        group=buffer.group,
        credit=stacked([buffer.credits[i] for i in index], device) if buffer.credits else None,
    )


@dataclass(frozen=True)
class UpdateStats:
    """Divergence from the sampling policy after an update."""

    loss: float
    divergence: float
    """KL(pi_old || pi) per token in nats (k3 estimator, non-negative)."""
    weights_std: float
    """Standard deviation of a weight over tokens, mean over experts."""
    entropy: float
    """Entropy of the weights relative to uniform ones, 0 to 1."""


def update_stats(data: Minibatch, loss: Tensor, said: PolicyOutput) -> UpdateStats:
    """Statistics of one minibatch."""
    mask = data.batch.mask
    ratio = said.log_probs - data.old_log_probs
    k3 = masked_mean(ratio.exp() - 1 - ratio, mask)
    own = said.weights[mask]
    most = math.log(max(2, own.shape[-1]))
    entropy = -torch.special.xlogy(own, own).sum(-1).mean() / most
    return UpdateStats(float(loss), float(k3), float(own.std(dim=0).mean()), float(entropy))
