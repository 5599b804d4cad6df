"""A smooth surface through noisy rewards of a few weights: what lies between and beside them.

The best of many points that were measured on few prompts each is mostly the luckiest one.
"""

from __future__ import annotations

import torch
from torch import Tensor

LENGTH = 0.25
"""Distance on the simplex over which rewards go up or down together."""


def response_surface(tried: Tensor, rewards: Tensor, at: Tensor) -> Tensor:
    """Posterior mean of a Gaussian process, relative to the mean of what was tried.

    A prompt's own level is taken out first: whether it is an easy one says nothing of weights. How
    far the surface moves is read from the data as well: by as much as the points' means spread
    beyond chance. Where they do not, it is flat.

    Args:
        tried: weights, [N, E].
        rewards: of each on the same P prompts, in the same order, P at least 2, [N, P].
        at: where to read the surface, [M, E].

    Returns:
        [M], fp64.
    """
    tried, rewards, at = tried.double(), rewards.double(), at.double()
    lead = rewards - rewards.mean(dim=0)
    height = lead.mean(dim=1)
    noise = lead.var(dim=1) / rewards.shape[1]
    spread = (height.square().mean() - noise.mean()).clamp_min(0.0)
    among = spread * _kernel(tried, tried) + torch.diag(noise.clamp_min(1e-12))
    found: Tensor = spread * _kernel(at, tried) @ torch.linalg.solve(among, height)
    return found


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return torch.exp(-torch.cdist(a, b).square() / (2.0 * LENGTH**2))
