"""How sure a difference is: small statistics on paired figures."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from statistics import fmean

FLIPS = 10_000


def sign_flip(differences: Sequence[float], seed: int = 0) -> float:
    """Two-sided paired permutation test: how often random signs give a mean as far from zero."""
    draw = random.Random(seed)
    observed = abs(sum(differences))
    hits = sum(
        abs(sum(d if draw.getrandbits(1) else -d for d in differences)) >= observed - 1e-12
        for _ in range(FLIPS)
    )
    return (hits + 1) / (FLIPS + 1)


def wins(first: Sequence[float], second: Sequence[float]) -> float:
    """Share of pairs in which the first is larger; ties count for half."""
    pairs = list(zip(first, second, strict=True))
    return fmean(0.5 if a == b else float(a > b) for a, b in pairs)


def correlation(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Pearson's; 0 where one of the two does not vary."""
    varies = len(set(xs)) > 1 and len(set(ys)) > 1
    return statistics.correlation(xs, ys) if varies else 0.0
