"""Constant weights: the baseline that weights per token must beat."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

STATIC = "static"
Weights = tuple[float, ...]


def uniform(experts: int) -> Weights:
    """MPD (Uniform): every expert counts as much as the others."""
    return (1.0 / experts,) * experts


def grid(experts: int, parts: int, least: float = 0.0) -> Iterator[Weights]:
    """Weights that are multiples of 1/parts and not below ``least``, and always uniform ones.

    Points of the simplex, each once; uniform ones come first.
    """
    lowest = math.ceil(least * parts - 1e-9)
    points = (
        tuple(count / parts for count in counts) for counts in _compositions(parts, experts, lowest)
    )
    yield from dict.fromkeys((uniform(experts), *points))


def around_uniform(experts: int) -> tuple[Weights, ...]:
    """Equal weights, then each expert raised by a quarter of its distance from 1, then each lowered
    by two fifths; the others share the rest. 2E + 1 points, for a response surface."""
    mean = 1.0 / experts
    points = [uniform(experts)]
    for share in (mean + (1.0 - mean) / 4, 0.6 * mean) if experts > 1 else ():
        other = (1.0 - share) / (experts - 1)
        points += [(other,) * k + (share,) + (other,) * (experts - 1 - k) for k in range(experts)]
    return tuple(points)


def _compositions(total: int, terms: int, lowest: int) -> Iterator[tuple[int, ...]]:
    if terms == 1:
        if total >= lowest:
            yield (total,)
        return
    for first in range(lowest, total + 1):
        for rest in _compositions(total - first, terms - 1, lowest):
            yield (first, *rest)


def is_simplex(weights: Sequence[float], size: int) -> bool:
    """Whether these are ``size`` weights in [0, 1] that sum to 1."""
    inside = all(0.0 <= weight <= 1.0 for weight in weights)
    return len(weights) == size and inside and abs(sum(weights) - 1.0) < 1e-3


def method_name(weights: Sequence[float]) -> str:
    """The name of constant weights as a method, ``static:0.500000,0.500000``."""
    return f"{STATIC}:" + ",".join(f"{weight:.6f}" for weight in weights)


def weights_in(method: str) -> Weights | None:
    """The weights that a method's name holds, () where they are no numbers, None without any."""
    if not method.startswith(f"{STATIC}:"):
        return None
    try:
        return tuple(float(part) for part in method.removeprefix(f"{STATIC}:").split(","))
    except ValueError:
        return ()
