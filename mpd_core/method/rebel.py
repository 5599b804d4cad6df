"""REBEL (Gao et al., 2024): regress what a policy changes onto what its replies earn.

Experts are frozen: of a sampled reply only their log-probabilities of its tokens are needed,
recorded while it was sampled, and an update never runs an expert.
"""

from __future__ import annotations

from torch import Tensor


def rebel_loss(log_ratios: Tensor, rewards: Tensor, eta: float) -> Tensor:
    """The mean over all pairs of a group's replies of ``(eta (l_1 - l_2) - (r_1 - r_2))^2``.

    ``l = ln pi - ln pi_old`` of a whole reply. All pairs of K numbers differ by K times their
    squared distance from the mean, so pairs need not be listed.

    Args:
        log_ratios: l, [G, K]: G groups (a prompt with a preference) of K replies.
        rewards: r, [G, K]; K at least 2.
        eta: on the side of the log-ratios; the published code has 1/eta on the rewards.

    Returns:
        A scalar, to be minimised.
    """
    residuals = eta * log_ratios - rewards
    spread = (residuals - residuals.mean(dim=-1, keepdim=True)).square().sum(dim=-1)
    return (2.0 * spread / (residuals.shape[-1] - 1)).mean()
