"""Rewards of whole replies: Eq. 2 by pole, and one number from several poles."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # a recipe names the kinds, and is read where no torch is wanted
    from torch import Tensor

Aggregate = Literal["mean", "geometric", "soft_min"]
SHARPNESS = 8.0
"""lambda of the soft minimum, for rewards between 0 and 1."""


def bradley_terry(reward: Tensor, reference: Tensor) -> Tensor:
    """Eq. 2: the probability that a reply is better than the reference, sigmoid(r - r_ref).

    Args:
        reward: r, a reward model's score of the reply, [...].
        reference: r_ref, its score of the reference's reply to the same prompt, [...].

    Returns:
        Between 0 and 1, [...].
    """
    return (reward - reference).sigmoid()


def aggregate(rewards: Tensor, kind: Aggregate = "mean") -> Tensor:
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
        return (count - (-SHARPNESS * rewards).logsumexp(dim=-1)) / SHARPNESS
    return rewards.mean(dim=-1)
