"""Eq. 1 and what follows it: pure functions on tensors.

Axes: ``E`` experts, ``V`` vocabulary; ``...`` any leading batch. All logarithms are natural.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

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


def penalise(
    log_probs: Tensor, seen: Sequence[Sequence[int]], penalties: Sequence[float]
) -> Tensor:
    """Repetition penalty of CTRL (Keskar et al., 2019) on log-probabilities.

    These are never positive, so every token already in a reply has its log-probability multiplied
    by the reply's penalty and the rest stay.

    Args:
        log_probs: [R, V].
        seen: ids of each reply so far, repeats allowed.
        penalties: of each reply; 1 leaves it as it is.

    Returns:
        Scores, [R, V], not normalised.
    """
    places = [
        (row, token, penalty)
        for row, (tokens, penalty) in enumerate(zip(seen, penalties, strict=True))
        for token in (set(tokens) if penalty != 1.0 else ())
    ]
    if not places:
        return log_probs
    rows, tokens, factors = (
        torch.tensor(column, device=log_probs.device) for column in zip(*places, strict=True)
    )
    return log_probs.index_put((rows, tokens), log_probs[rows, tokens] * factors)


def nucleus(probs: Tensor, top_p: Tensor) -> Tensor:
    """Keep the fewest likeliest tokens whose probability reaches ``top_p``; the rest become 0.

    Args:
        probs: [R, V], rows summing to 1.
        top_p: in (0, 1], [R]; the likeliest token always stays.

    Returns:
        [R, V], not normalised again.
    """
    ordered, indices = probs.sort(descending=True, stable=True)
    keep = ordered.cumsum(-1) - ordered < top_p[:, None]
    keep |= (top_p >= 1.0)[:, None]
    keep[:, 0] = True
    return torch.zeros_like(probs).scatter(-1, indices, ordered * keep)


def draw(generator: torch.Generator) -> float:
    """A number from [0, 1): what one step of one reply takes from its generator."""
    return float(torch.rand((), dtype=torch.float64, generator=generator))


def choose(
    log_probs: Tensor,
    samplings: Sequence[Sampling],
    seen: Sequence[Sequence[int]],
    draws: Sequence[float],
) -> Tensor:
    """Draw the next token of each reply: penalty, then temperature, then top-p, after the mixing.

    The draw is the inverse of the distribution function in vocabulary order: rounding noise moves
    a boundary by as much as itself, so equal seeds give equal tokens whoever else is in the batch.

    Args:
        log_probs: merged distributions, [R, V].
        samplings: temperature 0 takes the likeliest token.
        seen: ids of each reply so far.
        draws: of each reply's own generator; one is used up whatever the setting.

    Returns:
        Token ids, [R], where the log-probabilities are.
    """
    scores = penalise(log_probs, seen, [s.repetition_penalty for s in samplings])
    tokens = scores.argmax(dim=-1)
    warm = [row for row, sampling in enumerate(samplings) if sampling.temperature > 0.0]
    if warm:
        tokens[warm] = _sample(
            scores[warm], [samplings[row] for row in warm], [draws[row] for row in warm]
        )
    return tokens


def _sample(scores: Tensor, samplings: Sequence[Sampling], draws: Sequence[float]) -> Tensor:
    def column(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device=scores.device)

    temperatures = column([sampling.temperature for sampling in samplings])
    probs = torch.softmax(scores.double() / temperatures[:, None], dim=-1)
    if any(sampling.top_p < 1.0 for sampling in samplings):
        probs = nucleus(probs, column([sampling.top_p for sampling in samplings]))
    bounds = probs.cumsum(dim=-1)
    targets = column(draws) * bounds[:, -1]
    found = torch.searchsorted(bounds, targets[:, None], right=True)[:, 0]
    return found.clamp_max(bounds.shape[-1] - 1)
