"""How sure a difference is: small statistics on paired figures."""

from __future__ import annotations

import random
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
    mx, my = fmean(xs), fmean(ys)
    over = sum((x - mx) * (y - my) for x, y in zip(xs, ys, strict=True))
    under = (sum((x - mx) ** 2 for x in xs) * sum((y - my) ** 2 for y in ys)) ** 0.5
    return over / under if under else 0.0
