"""Eq. 1 and what follows it: pure functions on tensors.

Axes: ``E`` experts, ``V`` vocabulary; ``...`` any leading batch. All logarithms are natural.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mpd_core.request import Sampling, Space


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
    probs = log_probs.exp()
    surprise: Tensor = -torch.special.xlogy(probs, probs).sum(dim=-1)
    return surprise


def disagreement(log_probs: Tensor, weights: Tensor) -> Tensor:
    """Jensen-Shannon divergence of the experts: H(sum alpha_i p_i) - sum alpha_i H(p_i).

    Args:
        log_probs: [..., E, V].
        weights: [..., E].

    Returns:
        Nats, [...]; between 0 (all experts agree) and the entropy of alpha.
    """
    mixture = entropy(merge_probabilities(log_probs, weights))
    return (mixture - (weights * entropy(log_probs)).sum(dim=-1)).clamp_min(0.0)


def penalise(log_probs: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Repetition penalty of CTRL (Keskar et al., 2019) on log-probabilities.

    These are never positive, so every token already in the reply has its log-probability
    multiplied by ``penalty`` and the rest stay.

    Args:
        log_probs: [V].
        seen: ids of the reply so far, [T], repeats allowed.
        penalty: 1 leaves everything as it is.

    Returns:
        Scores, [V], not normalised.
    """
    if penalty == 1.0 or seen.numel() == 0:
        return log_probs
    scores = log_probs.clone()
    scores[seen] = log_probs[seen] * penalty
    return scores


def nucleus(probs: Tensor, top_p: float) -> Tensor:
    """Keep the fewest likeliest tokens whose probability reaches ``top_p``; the rest become 0.

    Args:
        probs: [V], summing to 1.
        top_p: in (0, 1]; the likeliest token always stays.

    Returns:
        [V], not normalised again.
    """
    if top_p >= 1.0:
        return probs
    ordered, indices = probs.sort(descending=True, stable=True)
    keep = ordered.cumsum(0) - ordered < top_p
    keep[0] = True
    return torch.zeros_like(probs).index_put((indices[keep],), ordered[keep])


def choose(log_probs: Tensor, sampling: Sampling, seen: Tensor, generator: torch.Generator) -> int:
    """Draw the next token: repetition penalty, then temperature, then top-p, after the mixing.

    The draw is the inverse of the distribution function in vocabulary order, at one number from
    the request's own generator: rounding noise moves a boundary by as much as itself, so equal
    seeds give equal tokens whoever else is in the batch.

    Args:
        log_probs: merged distribution, [V].
        sampling: temperature 0 takes the likeliest token.
        seen: ids of the reply so far, [T].
        generator: on the CPU; advanced by exactly one draw, greedy or not.

    Returns:
        A token id.
    """
    draw = torch.rand((), dtype=torch.float64, generator=generator)
    scores = penalise(log_probs, seen, sampling.repetition_penalty)
    if sampling.temperature == 0.0:
        return int(scores.argmax())
    probs = torch.softmax(scores.double() / sampling.temperature, dim=-1)
    bounds = nucleus(probs, sampling.top_p).cumsum(0)
    index = torch.searchsorted(bounds, draw.to(bounds.device) * bounds[-1], right=True)
    return int(index.clamp_max(len(bounds) - 1))
