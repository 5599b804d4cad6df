"""PPO (Schulman et al., 2017) with a penalty on leaving MPD (Uniform), of single tokens.

Axes: ``N`` replies, ``T`` tokens; masks are True at tokens of a reply, which begin at 0.
"""

from __future__ import annotations

import torch
from torch import Tensor


def ppo_loss(
    log_probs: Tensor,
    values: Tensor,
    *,
    old_log_probs: Tensor,
    old_values: Tensor,
    reference_log_probs: Tensor,
    rewards: Tensor,
    mask: Tensor,
    clip: float,
    value_weight: float,
    gamma: float,
    lam: float,
    kl: float,
) -> Tensor:
    """The policy's loss plus the critic's.

    Args:
        log_probs: ln pi of each token under the present policy, [N, T].
        values: the present critic's before each token, [N, T].
        old_log_probs: under the policy that sampled the replies, [N, T].
        old_values: of the critic at that time, [N, T].
        reference_log_probs: under the policy not to be left, MPD (Uniform), [N, T].
        rewards: of whole replies, [N].
        mask: [N, T].
        clip: of the ratio to the sampling policy, and of the critic's move.
        value_weight: of the critic's loss.
        gamma: discount.
        lam: lambda of the advantages.
        kl: weight of the penalty on leaving the reference.

    Returns:
        A scalar, to be minimised.
    """
    by_token = -kl * (old_log_probs - reference_log_probs) * mask
    last = mask.sum(dim=1) - 1
    by_token[torch.arange(len(last)), last] += rewards
    estimate = advantages(by_token, old_values, mask, gamma, lam)
    policy = ppo_policy_loss(log_probs - old_log_probs, whiten(estimate, mask), mask, clip)
    critic = ppo_value_loss(values, old_values, estimate + old_values, mask, clip)
    return policy + value_weight * critic


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over positions where the mask is True; both [N, T], or any equal shape; a scalar."""
    return (values * mask).sum() / mask.sum().clamp_min(1)


def whiten(values: Tensor, mask: Tensor) -> Tensor:
    """Shifted and scaled to mean 0 and variance 1 over the mask, [N, T]."""
    mean = masked_mean(values, mask)
    variance = masked_mean((values - mean).square(), mask)
    return (values - mean) * torch.rsqrt(variance + 1e-8)


def advantages(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Tensor:
    """Generalised advantage estimation (Schulman et al., 2016).

    Args:
        rewards: of each token, [N, T]: the divergence penalty, and the reply's reward at its end.
        values: the critic's before each token, [N, T].
        mask: True at tokens of the reply, which begin at 0, [N, T].
        gamma: discount.
        lam: lambda.

    Returns:
        [N, T], 0 outside the mask.
    """
    out = torch.zeros_like(rewards)
    running = torch.zeros_like(rewards[:, 0])
    ahead = torch.zeros_like(running)
    for t in range(rewards.shape[1] - 1, -1, -1):
        delta = rewards[:, t] + gamma * ahead - values[:, t]
        running = (delta + gamma * lam * running) * mask[:, t]
        out[:, t], ahead = running, values[:, t] * mask[:, t]
    return out


def ppo_policy_loss(log_ratios: Tensor, advantage: Tensor, mask: Tensor, clip: float) -> Tensor:
    """The clipped surrogate (Schulman et al., 2017, Eq. 7), to be minimised; a scalar.

    Args:
        log_ratios: ln pi - ln pi_old of each token, [N, T].
        advantage: of each token, [N, T].
        mask: True at tokens of the reply, [N, T].
        clip: epsilon.
    """
    ratio = log_ratios.exp()
    clipped = ratio.clamp(1.0 - clip, 1.0 + clip)
    return masked_mean(-torch.minimum(ratio * advantage, clipped * advantage), mask)


def ppo_value_loss(
    values: Tensor, old: Tensor, returns: Tensor, mask: Tensor, clip: float
) -> Tensor:
    """Half the squared error of the critic, its move since sampling clipped; a scalar.

    Args:
        values: the critic's now, before each token, [N, T].
        old: at the time of sampling, [N, T].
        returns: what it should have said, advantage plus ``old``, [N, T].
        mask: True at tokens of the reply, [N, T].
        clip: the most that a value may have moved without being held to where it was.
    """
    near = old + (values - old).clamp(-clip, clip)
    worst = torch.maximum((values - returns).square(), (near - returns).square())
    return 0.5 * masked_mean(worst, mask)
