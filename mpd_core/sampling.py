"""From a merged distribution to the next token: penalties, temperature, top-p and the draw.

A mixture has no logits, only log-probabilities; what is taken off these is, up to the sum that
normalises them, taken off logits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from mpd_core.request import Sampling

DRY_BASE, DRY_ALLOWED = 1.75, 2
"""Growth of the penalty by token, and the longest repeat that costs nothing: the usual defaults."""
DRY_LONGEST = 20
"""Longer repeats are not looked into: the penalty is beyond any probability by then."""
LEAST = torch.finfo(torch.float64).tiny
"""Of temperatures: what is smaller still may be flushed to zero."""


def penalise(
    log_probs: Tensor, samplings: Sequence[Sampling], seen: Sequence[Sequence[int]]
) -> Tensor:
    """Make what has been said less likely, by the two penalties of each reply's setting.

    ``repetition_penalty`` multiplies the log-probability of every token that is in the reply, as in
    CTRL (Keskar et al., 2019). It hardly moves a token that is nearly certain, and loops are;
    ``dry_multiplier`` is there for those, see ``repeats``.

    Args:
        log_probs: [R, V].
        samplings: of each reply.
        seen: ids of each reply so far, repeats allowed.

    Returns:
        Scores, [R, V], not normalised.
    """
    places = [
        (row, token, factor, taken)
        for row, (sampling, tokens) in enumerate(zip(samplings, seen, strict=True))
        for token, factor, taken in _penalties(sampling, tokens)
    ]
    if not places:
        return log_probs
    rows, tokens, factors, taken = (
        torch.tensor(column, device=log_probs.device) for column in zip(*places, strict=True)
    )
    lowered = log_probs[rows, tokens] * factors - taken
    return log_probs.index_put((rows, tokens), lowered)


def _penalties(sampling: Sampling, tokens: Sequence[int]) -> Iterator[tuple[int, float, float]]:
    """Token, what its log-probability is multiplied with, and what is then taken off."""
    factor = sampling.repetition_penalty
    found = repeats(tokens) if sampling.dry_multiplier else {}
    for token in set(tokens) if factor != 1.0 else found:
        excess = found.get(token, 0) - DRY_ALLOWED
        taken = sampling.dry_multiplier * DRY_BASE**excess if excess >= 0 else 0.0
        yield token, factor, taken


def repeats(tokens: Sequence[int]) -> Mapping[int, int]:
    """For each token that would go on repeating: how many tokens it would repeat before itself.

    DRY ("don't repeat yourself", p-e-w, 2024): when a reply's last n tokens stood somewhere before,
    the token that followed there is charged ``multiplier * base ** (n - allowed)``. Words that are
    several tokens long survive it, since nothing else is likely within them; a sentence that comes
    back over and over does not.
    """
    if not tokens:
        return {}
    longest: dict[int, int] = {}
    last = len(tokens) - 1
    for end in range(last):
        length = 0
        most = min(end + 1, DRY_LONGEST)
        while length < most and tokens[end - length] == tokens[last - length]:
            length += 1
        if length:
            follower = tokens[end + 1]
            longest[follower] = max(longest.get(follower, 0), length)
    return longest


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
    """Draw the next token of each reply: penalties, then temperature, then top-p, after the mixing.

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
    scores = penalise(log_probs, samplings, seen)
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

    # Zero over the least temperature is still zero: nothing that is divided overflows upwards.
    scores = scores.double()
    above = scores - scores.amax(dim=-1, keepdim=True)
    temperatures = column([sampling.temperature for sampling in samplings]).clamp_min(LEAST)
    probs = torch.softmax(above / temperatures[:, None], dim=-1)
    if any(sampling.top_p < 1.0 for sampling in samplings):
        probs = nucleus(probs, column([sampling.top_p for sampling in samplings]))
    bounds = probs.cumsum(dim=-1)
    targets = column(draws) * bounds[:, -1]
    found = torch.searchsorted(bounds, targets[:, None], right=True)[:, 0]
    return found.clamp_max(bounds.shape[-1] - 1)
