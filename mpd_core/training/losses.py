"""The losses of PCM training: pure functions on tensors.

Axes: ``G`` groups (a prompt with a preference), ``K`` replies of a group, ``T`` tokens, ``E``
experts. Experts are frozen: of a sampled reply only their log-probabilities of its tokens are
needed, recorded while it was sampled, and an update never runs an expert.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Aggregate = Literal["mean", "geometric", "soft_min"]
SHARPNESS = 8.0
"""lambda of the soft minimum, for rewards between 0 and 1."""


def bradley_terry(reward: Tensor, reference: Tensor) -> Tensor:
    """Eq. 2: the probability that a reply is better than the reference, sigmoid(r - r_ref)."""
    return torch.sigmoid(reward - reference)


def aggregate(rewards: Tensor, kind: Aggregate) -> Tensor:
    """A reply's reward from its rewards by pole, which lie between 0 and 1.

    ``mean`` is the paper's: it is raised by giving up one dimension for the others. ``geometric``
    is exp of the mean logarithm, ``soft_min`` -ln(mean exp(-lambda r)) / lambda (as RMOD has it):
    both ask first for what is missing.

    Args:
        rewards: [..., poles].
        kind: how.

    Returns:
        [...].
    """
    if kind == "geometric":
        return rewards.clamp_min(1e-6).log().mean(dim=-1).exp()
    if kind == "soft_min":
        count = math.log(rewards.shape[-1])
        return (count - torch.logsumexp(-SHARPNESS * rewards, dim=-1)) / SHARPNESS
    return rewards.mean(dim=-1)


def mixture_log_prob(weights: Tensor, log_probs: Tensor) -> Tensor:
    """ln pi of each token under Eq. 1: ln sum_i alpha_i p_i.

    Args:
        weights: alpha on the simplex, [..., T, E].
        log_probs: recorded ln p_i of the sampled tokens, [..., T, E].

    Returns:
        [..., T].
    """
    return torch.logsumexp(weights.log() + log_probs, dim=-1)


def strength_score(weights: Tensor, said: Tensor, strength: float) -> Tensor:
    """z_0 + B sum_i alpha_i (z_i - z_a) of single tokens: ln pi up to its normaliser.

    Args:
        weights: alpha on the simplex, [..., E].
        said: of tokens ln p_0, where it is another ln p_a, then ln p_i, [..., A + E].
        strength: B.
    """
    anchors = said.shape[-1] - weights.shape[-1]
    shift = (weights * said[..., anchors:]).sum(dim=-1) - said[..., anchors - 1]
    return said[..., 0] + strength * shift


def tempered_log_prob(chosen: Tensor, others: Tensor, temperature: float) -> Tensor:
    """ln of a token's probability after temperature: p^(1/t) over the sum of all such powers.

    The sum runs over the likeliest tokens, which were recorded: what is left out of it shrinks with
    the temperature, and it should be well below 1.

    Args:
        chosen: ln pi of the sampled tokens, up to a constant, [...].
        others: ln pi of other likely ones, up to the same, [..., C]; without any, ``chosen`` must
            be normalised and the temperature 1.
        temperature: above 0.

    Returns:
        [...].
    """
    if not others.shape[-1]:
        return chosen
    every = torch.cat([chosen[..., None], others], dim=-1) / temperature
    return every[..., 0] - torch.logsumexp(every, dim=-1)


def rebel_loss(log_ratios: Tensor, rewards: Tensor, eta: float) -> Tensor:
    """REBEL (Gao et al., 2024) over all pairs of a group's replies.

    The mean over pairs of ``(eta (l_1 - l_2) - (r_1 - r_2))^2`` with ``l = ln pi - ln pi_old`` of a
    whole reply. All pairs of K numbers differ by K times their squared distance from the mean, so
    pairs need not be listed.

    Args:
        log_ratios: l, [G, K].
        rewards: r, [G, K]; K at least 2.
        eta: on the side of the log-ratios; the published code has 1/eta on the rewards.
    """
    residuals = eta * log_ratios - rewards
    spread = (residuals - residuals.mean(dim=-1, keepdim=True)).square().sum(dim=-1)
    return (2.0 * spread / (residuals.shape[-1] - 1)).mean()


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over positions where the mask is True."""
    return (values * mask).sum() / mask.sum().clamp_min(1)


def whiten(values: Tensor, mask: Tensor) -> Tensor:
    """Mean 0 and variance 1 over the mask."""
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
    """The clipped surrogate, to be minimised; log-ratios of single tokens, [N, T]."""
    ratio = log_ratios.exp()
    clipped = ratio.clamp(1.0 - clip, 1.0 + clip)
    return masked_mean(-torch.minimum(ratio * advantage, clipped * advantage), mask)


def ppo_value_loss(
    values: Tensor, old: Tensor, returns: Tensor, mask: Tensor, clip: float
) -> Tensor:
    """Half the squared error of the critic, its move since sampling clipped, [N, T]."""
    near = old + (values - old).clamp(-clip, clip)
    worst = torch.maximum((values - returns).square(), (near - returns).square())
    return 0.5 * masked_mean(worst, mask)
