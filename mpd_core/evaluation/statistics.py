"""Win rates, tests and intervals: pure functions on verdicts of pairs.

A verdict is 1 (the first reply wins), 0 (tie) or -1. Pairs of one prompt are not independent, for
the eight preferences share it: intervals draw whole prompts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist, fmean

import numpy as np
from numpy.typing import NDArray

from mpd_core.evaluation import Figures

Floats = NDArray[np.float64]
LEVEL, POWER, DRAWS, STEPS = 0.95, 0.8, 2000, 100
RIDGE = 1e-3
"""Keeps strengths finite where a method wins, or ties, always; too little to move others."""
ANCHOR, SPREAD = 1000.0, 400.0
"""The scale of chess: 400 points are odds of 10 to 1."""


@dataclass(frozen=True)
class Tally:
    """Wins, ties and losses of one side."""

    wins: int = 0
    ties: int = 0
    losses: int = 0

    @classmethod
    def of(cls, verdicts: Iterable[int]) -> Tally:
        found = list(verdicts)
        return cls(*(sum(verdict == kind for verdict in found) for kind in (1, 0, -1)))

    @property
    def pairs(self) -> int:
        return self.wins + self.ties + self.losses

    @property
    def decided(self) -> int:
        """Number of pairs that are not ties."""
        return self.wins + self.losses

    @property
    def paper_rate(self) -> float | None:
        """Wins among decided pairs, the paper's rule; None where there are none."""
        return self.wins / self.decided if self.decided else None

    @property
    def half_rate(self) -> float | None:
        """(W + T/2) / N; None without pairs."""
        return (self.wins + self.ties / 2) / self.pairs if self.pairs else None

    @property
    def p(self) -> float:
        """Of the two-sided exact binomial test that wins and losses are alike; ties are dropped."""
        return binomial_p(self.wins, self.decided)

    @property
    def figures(self) -> Figures:
        """Counts, rates by both rules, and p."""
        rates = {"paper_rate": self.paper_rate, "half_rate": self.half_rate, "p": self.p}
        return {**asdict(self), **rates}


def overall(by_dimension: Iterable[int]) -> int:
    """The paper's verdict on a pair: the sign of the sum of its dimensions' verdicts."""
    total = sum(by_dimension)
    return (total > 0) - (total < 0)


def both_orders(first: int, second: int) -> tuple[int, bool]:
    """The verdict of a judge who saw (a, b) and (b, a), each from the view of what stood first.

    Returns:
        For a, a disagreement being a tie; and whether the judge flipped.
    """
    agreed = first == -second
    return (first if agreed else 0), not agreed


def binomial_p(wins: int, decided: int) -> float:
    """Two-sided exact p of ``wins`` out of ``decided`` where both sides are equally good."""
    fewer = min(wins, decided - wins)
    tail = sum(math.comb(decided, k) for k in range(fewer + 1))
    return min(1.0, float(2 * tail / 2**decided))


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given: at 0.05 the family errs in 5% at most."""
    order = sorted(range(len(ps)), key=lambda index: ps[index])
    adjusted, least = [0.0] * len(ps), 0.0
    for rank, index in enumerate(order):
        least = max(least, min(1.0, (len(ps) - rank) * ps[index]))
        adjusted[index] = least
    return adjusted


def interval(parts: Sequence[tuple[float, float]]) -> tuple[float, float] | None:
    """Percentile bootstrap of a share, over clusters: low and high.

    ``parts`` are a prompt's numerator and denominator each, e.g. its wins and its decided pairs;
    None where no draw has a denominator.
    """
    table = np.array(parts, float).reshape(-1, 2)
    if not len(table):
        return None
    chosen = np.random.default_rng(0).integers(len(table), size=(DRAWS, len(table)))
    above, below = table[chosen].sum(1).T
    shares = above[below > 0] / below[below > 0]
    if not len(shares):
        return None
    low, high = np.quantile(shares, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def over_prompts(
    prompts: Iterable[str], verdicts: Iterable[int], *, ties: bool = False
) -> tuple[float, float] | None:
    """The interval of ``Tally.paper_rate`` or, with ``ties``, of ``Tally.half_rate``, drawing whole
    prompts: each verdict comes with its prompt's id."""
    sums: dict[str, tuple[float, float]] = {}
    for prompt, verdict in zip(prompts, verdicts, strict=True):
        above, below = sums.get(prompt, (0.0, 0.0))
        wins, of = ((verdict + 1) / 2, 1) if ties else (verdict == 1, verdict != 0)
        sums[prompt] = (above + wins, below + of)
    return interval(list(sums.values()))


def mean_known(values: Iterable[float | None]) -> float | None:
    """The mean of those that are not None; None where all are."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def detectable(pairs: int) -> float:
    """Least distance of a win rate from 0.5 that this many decided pairs are likely to find.

    Of a two-sided test with ``LEVEL``, by the normal approximation; at most 0.5. Pairs count as
    independent, so that with several preferences a prompt it is rather too small.
    """
    reach = NormalDist().inv_cdf((1 + LEVEL) / 2) + NormalDist().inv_cdf(POWER)
    return min(0.5, reach * 0.5 / math.sqrt(pairs)) if pairs else 0.5


def bradley_terry(tallies: Mapping[tuple[str, str], Tally], anchor: str) -> dict[str, float]:
    """Strengths of all methods on the scale of chess, the anchor's being 1000.

    Davidson's model (1970): of two methods with strengths s and t, the odds of win, loss and tie
    are s : t : v sqrt(s t), v being common to all pairs. Fitted by Newton's method.

    Args:
        tallies: by (first, second), from the view of the first; each pair of methods once.
        anchor: one of them.

    Raises:
        ValueError: the anchor is in no pair.
    """
    names = list(dict.fromkeys(name for pair in tallies for name in pair))
    if anchor not in names:
        raise ValueError(f"'{anchor}' has met nobody")

    def climb(at: Floats) -> tuple[Floats, Floats]:
        slope, bend = np.zeros(len(at)), np.zeros((len(at), len(at)))
        for (first, second), tally in tallies.items():
            one, other = names.index(first), names.index(second)
            outcomes = np.zeros((3, len(at)))  # gradients of the log-odds of win, loss and tie
            outcomes[0, one] = outcomes[1, other] = outcomes[2, -1] = 1
            outcomes[2, [one, other]] = 0.5
            odds = np.exp(outcomes @ at)
            shares = odds / odds.sum()
            seen = np.array([tally.wins, tally.losses, tally.ties], float)
            mean = shares @ outcomes
            slope += seen @ outcomes - seen.sum() * mean
            bend += seen.sum() * ((outcomes.T * shares) @ outcomes - np.outer(mean, mean))
        return slope, bend

    strengths = _highest(climb, len(names) + 1)  # the last is ln v
    points = SPREAD / math.log(10) * (strengths - strengths[names.index(anchor)])
    return {name: ANCHOR + float(points[index]) for index, name in enumerate(names)}


def _highest(climb: Callable[[Floats], tuple[Floats, Floats]], size: int) -> Floats:
    """Where a likelihood of ``size`` parameters, with a slight ridge, is highest: Newton's method.

    ``climb`` gives its slope and its negative second derivatives at a place.
    """
    at = np.zeros(size)
    for _ in range(STEPS):
        slope, bend = climb(at)
        step = np.linalg.solve(bend + RIDGE * np.eye(size), slope - RIDGE * at)
        at = at + np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-10:
            break
    return at


def length_controlled(verdicts: Sequence[int], longer_by: Sequence[float]) -> float | None:
    """The win rate there would be if both replies were of one length.

    AlpacaEval's length-controlled rate (Dubois et al., 2024) without its terms for instructions:
    a logistic model of (verdict + 1) / 2 on tanh(difference / its spread), read at difference 0.
    Not for the dimension that length itself shows.

    Args:
        verdicts: N of them.
        longer_by: N, words of the first reply less those of the second.

    Returns:
        None without pairs.
    """
    if not verdicts:
        return None
    gaps = np.array(longer_by, float)
    spread = float(gaps.std()) or 1.0
    rows = np.c_[np.ones(len(gaps)), np.tanh(gaps / spread)]
    wanted = (np.array(verdicts, float) + 1) / 2

    def climb(at: Floats) -> tuple[Floats, Floats]:
        shares = 1 / (1 + np.exp(-np.clip(rows @ at, -50, 50)))
        return rows.T @ (wanted - shares), (rows.T * (shares * (1 - shares))) @ rows

    weights = _highest(climb, 2)
    return float(1 / (1 + math.exp(-weights[0])))
