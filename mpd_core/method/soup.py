"""Personalized Soups (Jang et al., 2023): experts merged in their parameters, not in what they say.

A LoRA adapter changes a weight W by ``scaling * B A``. The paper's baseline adds the mean of these
changes; the published code averages A and B apart, which is another soup. The engine runs the first
without merging anything, as adapters of weight 1/n that share a row.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def mean_of_changes(adapters: Sequence[tuple[float, Tensor, Tensor]]) -> Tensor:
    """mean_i s_i B_i A_i, what a soup adds to one weight, [out, in].

    Args:
        adapters: of each its scaling s, A [rank, in] and B [out, rank]; ranks may differ.
    """
    return torch.stack([scaling * (b @ a) for scaling, a, b in adapters]).mean(dim=0)


def mean_of_factors(factors: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """(mean A, mean B) of adapters of one rank and scaling: the soup of the published code.

    Args:
        factors: of each adapter A [rank, in] and B [out, rank], for one weight.

    Returns:
        In fp32, of the same shapes.
    """
    return (
        torch.stack([a.float() for a, _ in factors]).mean(dim=0),
        torch.stack([b.float() for _, b in factors]).mean(dim=0),
    )
