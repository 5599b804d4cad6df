"""Eq. 1 and what follows it: pure functions on tensors.

Axes: ``E`` experts, ``V`` vocabulary; ``...`` any leading batch. All logarithms are natural.
"""

from __future__ import annotations

import math

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


def merge_strength(
    log_probs: Tensor,
    weights: Tensor,
    anchors: Tensor,
    strength: float,
    plausibility: float = 0.0,
) -> Tensor:
    """Strength in logit space: softmax of z_0 + B sum_i alpha_i (z_i - z_a). Ours, not the paper's.

    z_0 is what the bare base says, z_a what shifts are measured from: the adapter that all experts
    went on from, or the base again. Attributes that are independent given the text obey
    p(y | c_1..c_n) ~ p(y) prod_i p_i(y) / p_a(y): each of n experts has its full shift at B = n
    with uniform weights. With z_a = z_0, B = 1 is the paper's logit space (the base cancels), where
    each style has an n-th of its shift. B = 0 is the base. What experts have in common with z_a,
    what fine-tuning cost them of the base's knowledge for one, takes no part.

    A shift is a difference of log-probabilities, and of tokens that everybody finds absurd it is
    noise. The floor keeps what somebody finds plausible (Li et al., 2023, Contrastive Decoding).

    Args:
        log_probs: ln p_i of the experts, [..., E, V].
        weights: alpha on the simplex, [..., E].
        anchors: ln p_0, then, where it is another, ln p_a, [..., 1 or 2, V].
        strength: B, not negative.
        plausibility: tokens whose probability is below this share of the largest one, with every
            expert and with the base, become impossible; 0 keeps all.

    Returns:
        Log-probabilities, -inf where impossible, [..., V].
    """
    base = anchors[..., 0, :]
    shift = (weights.unsqueeze(-1) * log_probs).sum(dim=-2) - anchors[..., -1, :]
    scores = torch.add(base, shift, alpha=strength)
    if plausibility > 0.0:
        everybody = torch.cat([log_probs, base.unsqueeze(-2)], dim=-2)
        floor = everybody.amax(dim=-1, keepdim=True) + math.log(plausibility)
        scores = scores.masked_fill((everybody < floor).all(dim=-2), -math.inf)
    merged: Tensor = scores.log_softmax(dim=-1)
    return merged


def merge(
    space: Space,
    log_probs: Tensor,
    weights: Tensor,
    anchors: Tensor | None = None,
    strength: float = 1.0,
    plausibility: float = 0.0,
) -> Tensor:
    """The mixture in the space that a request names; shapes as in ``merge_strength``.

    Without anchors there is nothing to move away from (the bare base on its own): then the space
    ``strength`` is Eq. 1.
    """
    if space == "logit":
        return merge_logits(log_probs, weights)
    if space == "strength" and anchors is not None:
        return merge_strength(log_probs, weights, anchors, strength, plausibility)
    return merge_probabilities(log_probs, weights)


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
    return disagreements(log_probs, weights, mixture_entropy)[0]


def disagreements(
    log_probs: Tensor, weights: Tensor, mixture_entropy: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """``disagreement`` under these weights, and under equal ones.

    The first is near 0 where one expert has nearly all the weight, however far the others are from
    it; the second says how far all of them lie apart. Arguments as there.
    """
    equal = torch.full_like(weights, 1.0 / weights.shape[-1])
    own = entropy(log_probs)

    def apart(shares: Tensor, known: Tensor | None) -> Tensor:
        mixed = entropy(merge_probabilities(log_probs, shares)) if known is None else known
        return (mixed - (shares * own).sum(dim=-1)).clamp_min(0.0)

    weighted = apart(weights, mixture_entropy)
    return weighted, weighted if torch.equal(weights, equal) else apart(equal, None)
