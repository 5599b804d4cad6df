"""Initialise the PCM so that its mean weights are the best static weights (``imitate_static``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mpd_core.method.preferences import PreferenceSpace
from mpd_core.method.weight_head import WeightHead

EXPLORED = 0.15
"""Share of uniform in the weights that are imitated: of an expert that never speaks nothing could
be learned afterwards."""
DECAY = 1e-4
STEPS = 200


def fit_mean_weights(
    head: WeightHead,
    space: PreferenceSpace,
    targets: Mapping[str, Sequence[float]],
    token_scores: Mapping[str, Tensor] | None = None,
) -> float:
    """Fit a head's bias and pair scores to constant weights; no model is run for it.

    Args:
        head: a fresh one, whose weight is zero and which says the same whatever the backbone reads;
            or one whose scores are given.
        space: of the codes.
        targets: by code, weights of the preference's experts.
        token_scores: by code, what the head's weight alone says of some tokens, [T, poles]: its
            weights will be the wanted ones on average over these.

    Returns:
        Mean distance (total variation) of the head's weights from what they should be; not zero
        where weights depend on three poles at once.
    """
    chosen = torch.zeros(len(targets), len(space.poles), dtype=torch.bool)
    wanted = torch.zeros(len(targets), len(space.poles))
    for row, (code, weights) in enumerate(targets.items()):
        places = [space.poles.index(pole) for pole in space.parse(code).poles]
        chosen[row, places] = True
        wanted[row, places] = smoothed(weights)
    chosen, wanted = chosen.to(head.pair_bias.device), wanted.to(head.pair_bias.device)
    silent = head.pair_bias.new_zeros(1, len(space.poles))
    scores = [(token_scores or {}).get(code, silent) for code in targets]
    fitted = [head.pair_bias, head.linear.bias]
    optimiser = torch.optim.LBFGS(fitted, max_iter=STEPS, line_search_fn="strong_wolfe")

    def said() -> Tensor:
        own = zip(scores, chosen, strict=True)
        return torch.stack([head.weigh(s + head.linear.bias, c).mean(dim=0) for s, c in own])

    def closure() -> Tensor:
        optimiser.zero_grad()
        log = said().clamp_min(1e-30).log()
        size = sum(parameter.square().sum() for parameter in fitted)
        loss: Tensor = -(wanted * log).sum(dim=-1).mean() + DECAY * size
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        return float((said() - wanted).abs().sum(dim=-1).mean() / 2)


def smoothed(weights: Sequence[float]) -> Tensor:
    """Weights mixed with uniform ones, [E]."""
    return (1 - EXPLORED) * torch.tensor(weights) + EXPLORED / len(weights)
