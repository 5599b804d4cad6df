"""Credit for single tokens. Ours, not the paper's, whose REBEL credits whole replies.

The gradient of an expected reward is the sum over tokens of A_t d ln pi(y_t), with A_t what the
reply earns from y_t on, less anything that does not depend on y_t. With scores s_i before PCM's
softmax, d ln pi(y) / d s_i = rho_i - alpha_i in the space of probabilities, where
rho_i = alpha_i p_i(y) / pi(y): experts need not be run again. A reward of a whole reply is a noisy
A_t. Here it is split into scores of tokens, q_t, and the rest:

    A_t = q(y_t) - E_pi[q] + sum_k discount^k q(y_t+k) + share (rest - mean rest of the others)

E_pi[q] is taken over the likely tokens that were recorded, and so is the first term's gradient,
which is then exact: E_pi[(q - E_pi[q]) d ln pi], alpha_i (Q_i - sum_j alpha_j Q_j) with Q_i the
mean of q under expert i. With discount 1 and share 1 nothing is lost of the reply's reward.

Axes: ``N`` replies, ``T`` tokens, ``C`` other likely tokens, ``G`` groups of ``K`` replies.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mpd_core.method.ppo import masked_mean


def later_scores(scores: Tensor, discount: float) -> Tensor:
    """sum_{k > 0} discount^k q_{t+k} of the tokens of one reply, [T] to [T]."""
    out = torch.zeros_like(scores)
    for t in range(len(scores) - 2, -1, -1):
        out[t] = discount * (scores[t + 1] + out[t + 1])
    return out


def leave_one_out(rewards: Tensor) -> Tensor:
    """What a reply earns above the mean of its group's others (RLOO, Ahmadian et al., 2024),
    [G, K], K at least 2."""
    count = rewards.shape[-1]
    return (rewards - rewards.mean(dim=-1, keepdim=True)) * count / (count - 1)


def slope(scores: Tensor, rewards: Tensor) -> float:
    """Least squares of rewards on scores within groups, both [G, K]; never below 0: a style's own
    words are not counted against it, whatever a few replies say."""
    inner = [values - values.mean(dim=-1, keepdim=True) for values in (scores, rewards)]
    return max(0.0, float((inner[0] * inner[1]).sum() / inner[0].square().sum().clamp_min(1e-12)))


def centred(scores: Tensor, old_log_probs: Tensor) -> Tensor:
    """q - E_pi[q] of the sampled token and of the others, [..., 1 + C]; q itself where there are
    no others to take the mean over."""
    if scores.shape[-1] == 1:
        return scores
    return scores - (old_log_probs.exp() * scores).sum(dim=-1, keepdim=True)


def token_credit_loss(
    log_probs: Tensor,
    *,
    old_log_probs: Tensor,
    scores: Tensor,
    later: Tensor,
    mask: Tensor,
    eta: float,
) -> Tensor:
    """Regress what a policy changes at each token onto the token's advantage, as REBEL does with
    whole replies: the mean over tokens of (eta l - A)^2, l = ln pi - ln pi_old.

    At pi_old its gradient is -2 eta times that of the expected reward; further away it holds l near
    A / eta. A = a + F, a the part that all likely tokens have (``centred``), F that of the sampled
    one. The square is taken apart so that only F is left to chance:
    E_pi[(eta l - a)^2] - 2 F (eta l - a) + F^2.

    Args:
        log_probs: ln pi of the sampled token and of the other likely ones, [N, T, 1 + C].
        old_log_probs: under the policy that sampled the replies, likewise.
        scores: a, likewise.
        later: F, [N, T].
        mask: True at tokens of the reply, [N, T].
        eta: on the side of the log-ratios.

    Returns:
        A scalar, to be minimised.
    """
    apart = eta * (log_probs - old_log_probs) - scores
    alone = scores.shape[-1] == 1
    share = torch.ones_like(scores) if alone else old_log_probs.exp()
    by_token = (share * apart.square()).sum(dim=-1) - 2.0 * later * apart[..., 0] + later.square()
    return masked_mean(by_token, mask)
