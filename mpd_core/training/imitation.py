"""Where PCM training begins if the recipe says so: at the best constant weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mpd_core.models.pcm import WeightHead
from mpd_core.preferences import PreferenceSpace

EXPLORED = 0.15
"""Share of uniform in the weights that are imitated: of an expert that never speaks nothing could
be learned afterwards."""
DECAY = 1e-4
STEPS = 200


def imitate(
    head: WeightHead, space: PreferenceSpace, targets: Mapping[str, Sequence[float]]
) -> float:
    """Fit a fresh head's bias and pair scores to constant weights; nothing is run for it.

    Args:
        head: its weight is still zero, so that it says the same whatever the backbone reads.
        space: of the codes.
        targets: by code, weights of the preference's experts.

    Returns:
        Mean distance (total variation) of the head's weights from what they should be; not zero
        where weights depend on three poles at once.
    """
    chosen = torch.zeros(len(targets), len(space.poles), dtype=torch.bool)
    wanted = torch.zeros(len(targets), len(space.poles))
    for row, (code, weights) in enumerate(targets.items()):
        places = [space.poles.index(pole) for pole in space.parse(code).poles]
        chosen[row, places] = True
        wanted[row, places] = explored(weights)
    chosen, wanted = chosen.to(head.pairs.device), wanted.to(head.pairs.device)
    nothing = head.linear.weight.new_zeros(len(targets), head.linear.in_features)
    fitted = [head.pairs, head.linear.bias]
    optimiser = torch.optim.LBFGS(fitted, max_iter=STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        said = head(nothing, chosen).clamp_min(1e-30).log()
        size = sum(parameter.square().sum() for parameter in fitted)
        loss: Tensor = -(wanted * said).sum(dim=-1).mean() + DECAY * size
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        return float((head(nothing, chosen) - wanted).abs().sum(dim=-1).mean() / 2)


def explored(weights: Sequence[float]) -> Tensor:
    """Weights with some of uniform in them, [E]."""
    return (1 - EXPLORED) * torch.tensor(weights) + EXPLORED / len(weights)
