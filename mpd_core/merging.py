"""Eq. 1 and what follows it: pure functions on tensors.

Axes: ``E`` experts, ``V`` vocabulary; ``...`` any leading batch. All logarithms are natural.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mpd_core.request import Space


def merge_probabilities(log_probs: Tensor, weights: Tensor) -> Tensor:
    """Eq. 1: ln sum_i alpha_i p_i.

    Args:
        log_probs: ln p_i, normalised, [..., E, V].
        weights: alpha on the simplex, [..., E].

    Returns:
        Log-probabilities of the mixture, [..., V].
    """
    return torch.logsumexp(weights.log().unsqueeze(-1) + log_probs, dim=-2)


def merge_logits(log_probs: Tensor, weights: Tensor) -> Tensor:
    """The paper's logit-space ablation (Table 4): softmax of sum_i alpha_i z_i.

    A logit is defined up to a constant per expert, which the final softmax takes out again, so
    log-probabilities serve as logits here.

    Args:
        log_probs: [..., E, V].
        weights: [..., E].

    Returns:
        Log-probabilities, [..., V].
    """
    merged: Tensor = (weights.unsqueeze(-1) * log_probs).sum(dim=-2).log_softmax(dim=-1)
    return merged


MERGE: dict[Space, Callable[[Tensor, Tensor], Tensor]] = {
    "probability": merge_probabilities,
    "logit": merge_logits,
}


def merge(space: Space, log_probs: Tensor, weights: Tensor) -> Tensor:
    """The mixture in the space that a request names; shapes as in ``merge_probabilities``."""
    return MERGE[space](log_probs, weights)


def entropy(log_probs: Tensor) -> Tensor:
    """-sum_v p ln p over the last axis, in nats; 0 ln 0 is 0."""
    finite = log_probs.clamp_min(torch.finfo(log_probs.dtype).min)  # 0 * -inf would not be 0
    return -(log_probs.exp() * finite).sum(dim=-1)


def disagreement(
    log_probs: Tensor, weights: Tensor, mixture_entropy: Tensor | None = None
) -> Tensor:
    """Jensen-Shannon divergence of the experts: H(sum alpha_i p_i) - sum alpha_i H(p_i).

    Args:
        log_probs: [..., E, V].
        weights: [..., E].
        mixture_entropy: H(sum alpha_i p_i) where it is known already, [...].

    Returns:
        Nats, [...]; between 0 (all experts agree) and the entropy of alpha.
    """
    if mixture_entropy is None:
        mixture_entropy = entropy(merge_probabilities(log_probs, weights))
    return (mixture_entropy - (weights * entropy(log_probs)).sum(dim=-1)).clamp_min(0.0)
