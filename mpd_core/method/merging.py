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
    weighted = weights.log().unsqueeze(-1) + log_probs
    return weighted.squeeze(-2) if weighted.shape[-2] == 1 else torch.logsumexp(weighted, dim=-2)


def sum_logits(log_probs: Tensor, weights: Tensor) -> Tensor:
    """The paper's logit-space ablation (Table 4) before its softmax: sum_i alpha_i z_i.

    A logit is defined up to a constant per expert, which the final softmax takes out again, so
    log-probabilities serve as logits here. Shapes as in ``merge_probabilities``; not normalised.
    """
    return (weights.unsqueeze(-1) * log_probs).sum(dim=-2)


def fading_strength(strength: float, settled: float, fade: float, index: Tensor) -> Tensor:
    """B at a token of the reply: B (s + (1 - s) exp(-t / fade)). Ours.

    The first words decide on a style, and what follows takes it over from them. A shift as strong
    as the first word needs drives a long reply away from sense; see ``training/README.md``.

    Args:
        strength: B at the first token.
        settled: s, the share of it that is left in the long run; 1: it does not fade.
        fade: in tokens, above 0.
        index: t, 0 for the first token, [...].

    Returns:
        fp32, [...].
    """
    span = max(fade, torch.finfo(torch.float32).tiny)  # less is 0 in fp32, and 0 / 0 is nothing
    return strength * (settled + (1.0 - settled) * torch.exp(-index.float() / span))


def shift_logits(
    log_probs: Tensor, weights: Tensor, anchors: Tensor, strength: float | Tensor
) -> Tensor:
    """Strength in logit space, before its softmax: z_0 + B sum_i alpha_i (z_i - z_a).

    Ours, not the paper's. z_0 is what the bare base says, z_a what shifts are measured from: the
    adapter that all experts went on from, or the base again. Attributes that are independent given
    the text obey p(y | c_1..c_n) ~ p(y) prod_i p_i(y) / p_a(y): each of n experts has its full
    shift at B = n with uniform weights. With z_a = z_0, B = 1 is the paper's logit space (the base
    cancels), where each style has an n-th of its shift. B = 0 is the base. What experts have in
    common with z_a, what fine-tuning cost them of the base's knowledge for one, takes no part.

    Args:
        log_probs: ln p_i of the experts, [..., E, V].
        weights: alpha on the simplex, [..., E].
        anchors: ln p_0, then, where it is another, ln p_a, [..., 1 or 2, V].
        strength: B, not negative; a number, or one for each distribution, [...].

    Returns:
        [..., V].
    """
    shift = sum_logits(log_probs, weights) - anchors[..., -1, :]
    each = torch.as_tensor(strength, dtype=shift.dtype, device=shift.device)
    return anchors[..., 0, :] + each[..., None] * shift


def scores(
    space: Space,
    log_probs: Tensor,
    weights: Tensor,
    anchors: Tensor | None = None,
    strength: float | Tensor = 1.0,
) -> Tensor:
    """The mixture in the space that a request names, up to a constant for each distribution.

    V may be a few tokens whose log-probabilities were recorded. In the space of probabilities the
    constant is 0. Without anchors there is nothing to move away from (the bare base on its own):
    then the space ``strength`` is Eq. 1. Shapes as in ``shift_logits``.
    """
    if space == "logit":
        return sum_logits(log_probs, weights)
    if space == "strength" and anchors is not None:
        return shift_logits(log_probs, weights, anchors, strength)
    return merge_probabilities(log_probs, weights)


def implausible(log_probs: Tensor, anchors: Tensor, share: float) -> Tensor:
    """Tokens that nobody finds plausible (Li et al., 2023, Contrastive Decoding), [..., V].

    A shift is a difference of log-probabilities, and of tokens that everybody finds absurd it is
    noise. These are tokens whose probability is below ``share`` of the largest one, with every
    expert and with the base. Shapes as in ``shift_logits``.
    """
    everybody = torch.cat([log_probs, anchors[..., :1, :]], dim=-2)
    floor = everybody.amax(dim=-1, keepdim=True) + math.log(share)
    return (everybody < floor).all(dim=-2)


def merge(
    space: Space,
    log_probs: Tensor,
    weights: Tensor,
    anchors: Tensor | None = None,
    strength: float | Tensor = 1.0,
    plausibility: float = 0.0,
) -> Tensor:
    """The next token's distribution in the space that a request names.

    Args:
        space: of the merge, see ``scores``.
        log_probs: ln p_i of the experts, normalised, [..., E, V].
        weights: alpha on the simplex, [..., E].
        anchors: in the space ``strength``, see ``shift_logits``, [..., 1 or 2, V].
        strength: B of that space, as there.
        plausibility: share of ``implausible``, whose tokens are taken out in that space; 0 keeps
            all.

    Returns:
        Log-probabilities, -inf where impossible, [..., V].
    """
    merged = scores(space, log_probs, weights, anchors, strength)
    if space == "probability" or (space == "strength" and anchors is None):
        return merged
    if space == "strength" and anchors is not None and plausibility > 0.0:
        merged = merged.masked_fill(implausible(log_probs, anchors, plausibility), -math.inf)
    return merged.log_softmax(dim=-1)


def tempered_log_probs(scores: Tensor, temperature: float) -> Tensor:
    """ln of tokens' probabilities after temperature: p^(1/t) over the sum of all such powers.

    The sum runs over the likeliest tokens, which were recorded: what is left out of it shrinks with
    the temperature, and it should be well below 1.

    Args:
        scores: of the sampled token, then of other likely ones, up to a constant, [..., 1 + C];
            without others they must be normalised and the temperature 1.
        temperature: above 0.

    Returns:
        [..., 1 + C].
    """
    if scores.shape[-1] == 1:
        return scores
    return (scores / temperature).log_softmax(dim=-1)


def entropy(log_probs: Tensor) -> Tensor:
    """-sum_v p ln p in nats, where 0 ln 0 is 0: from ln p, [..., V], to [...]."""
    return _entropy(log_probs.exp(), log_probs)


def _entropy(probs: Tensor, log_probs: Tensor) -> Tensor:
    finite = log_probs.clamp_min(torch.finfo(log_probs.dtype).min)  # 0 * -inf would not be 0
    return -(probs * finite).sum(dim=-1)


def disagreements(
    log_probs: Tensor, weights: Tensor, mixture_entropy: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Jensen-Shannon divergence of the experts: H(sum alpha_i p_i) - sum alpha_i H(p_i).

    Under these weights it is near 0 where one expert has nearly all of them, however far the others
    are from it; under equal ones it says how far all of them lie apart.

    Args:
        log_probs: [..., E, V].
        weights: alpha, [..., E].
        mixture_entropy: H(sum alpha_i p_i) where it is known already, [...].

    Returns:
        Under these weights, then under equal ones, in nats, [...]; between 0 (all experts agree)
        and the weights' entropy.
    """
    if weights.shape[-1] == 1:
        nothing = torch.zeros_like(weights[..., 0])
        return nothing, nothing
    equal = torch.full_like(weights, 1.0 / weights.shape[-1])
    probs = log_probs.exp()  # once: over whole vocabularies exponentials are most of the work
    own = _entropy(probs, log_probs)

    def apart(shares: Tensor, known: Tensor | None) -> Tensor:
        if known is None:
            mixed = (shares.unsqueeze(-1) * probs).sum(dim=-2)
            known = _entropy(mixed, mixed.log())
        return (known - (shares * own).sum(dim=-1)).clamp_min(0.0)

    weighted = apart(weights, mixture_entropy)
    return weighted, weighted if torch.equal(weights, equal) else apart(equal, None)
