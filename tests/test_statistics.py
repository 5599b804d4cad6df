"""Statistics of pairs, against tables computed by hand and, where it is installed, scipy."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from mpd_core.evaluation.statistics import (
    Tally,
    binomial_p,
    both_orders,
    bradley_terry,
    detectable,
    holm,
    interval,
    length_controlled,
    overall,
)


@pytest.mark.parametrize(
    ("dimensions", "verdict"),
    [
        ((1, 1, -1), 1),
        ((1, 0, -1), 0),
        ((0, 0, 0), 0),
        ((-1, 0, 0), -1),
        ((1, 1, 1, -1), 1),
        ((), 0),
    ],
)
def test_the_papers_verdict_is_the_sign_of_the_sum(
    dimensions: tuple[int, ...], verdict: int
) -> None:
    assert overall(dimensions) == verdict


def test_both_rules_count_ties_in_their_own_way() -> None:
    """6 wins, 3 ties, 1 loss: 6 of 7 by the paper's rule, 7.5 of 10 by the other."""
    tally = Tally.of([1] * 6 + [0] * 3 + [-1])
    assert (tally.wins, tally.ties, tally.losses, tally.pairs, tally.decided) == (6, 3, 1, 10, 7)
    assert tally.paper_rate == pytest.approx(6 / 7)
    assert tally.half_rate == pytest.approx(0.75)
    assert tally.p == pytest.approx(16 / 128)
    assert Tally.of([0, 0]).paper_rate is None
    assert Tally.of([0, 0]).half_rate == 0.5
    assert Tally.of([]).half_rate is None
    assert Tally.of([]).p == 1.0


def test_a_disagreement_between_orders_is_a_tie_and_a_flip() -> None:
    """The second verdict is on the swapped pair: 1 there is a win of the other reply."""
    assert both_orders(1, -1) == (1, False)
    assert both_orders(-1, 1) == (-1, False)
    assert both_orders(0, 0) == (0, False)
    assert both_orders(1, 1) == (0, True)
    assert both_orders(-1, -1) == (0, True)
    assert both_orders(1, 0) == (0, True)
    assert both_orders(0, 1) == (0, True)


@pytest.mark.parametrize(
    ("wins", "decided", "p"),
    [
        (5, 5, Fraction(2, 32)),
        (0, 5, Fraction(2, 32)),
        (8, 10, Fraction(2 * (45 + 10 + 1), 1024)),
        (5, 10, Fraction(1)),
        (0, 0, Fraction(1)),
        (1, 1, Fraction(1)),
    ],
)
def test_binomial_p_is_the_exact_two_sided_one(wins: int, decided: int, p: Fraction) -> None:
    assert binomial_p(wins, decided) == pytest.approx(float(p), rel=1e-12)


@pytest.mark.parametrize(
    ("wins", "decided", "p"),
    [
        (37, 50, 0.000936222910851825),
        (3, 7, 1.0),
        (180, 401, 0.045635481404892916),
        (52, 60, 5.205691473372798e-09),
        (29, 49, 0.2528697301676033),
    ],
)
def test_binomial_p_is_that_of_scipy(wins: int, decided: int, p: float) -> None:
    """What ``scipy.stats.binomtest`` of scipy 1.17.1 gives."""
    assert binomial_p(wins, decided) == pytest.approx(p, rel=1e-9)


def test_binomial_p_of_thousands_of_pairs_is_finite() -> None:
    assert 0 < binomial_p(2100, 4000) < 0.01
    assert binomial_p(4000, 4000) == 2.0 * 0.5**4000 == 0.0


def test_holm_steps_down_and_never_falls() -> None:
    """Holm (1979) by hand: 0.01 x 4, 0.02 x 3, 0.03 x 2, and what was larger stays larger."""
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([0.001, 0.5]) == pytest.approx([0.002, 0.5])
    assert holm([]) == []


def test_the_interval_draws_whole_prompts() -> None:
    """Two prompts of eight like verdicts: draws can be 0, 1/2 or 1, and nothing between."""
    low, high = interval([(8, 8), (0, 8)]) or (9, 9)
    assert (low, high) == (0, 1)
    spread = interval([(1, 1)] * 8 + [(0, 1)] * 8) or (9, 9)
    assert 0.2 < spread[0] < 0.32
    assert 0.68 < spread[1] < 0.8


def test_the_interval_of_many_prompts_is_that_of_the_normal() -> None:
    """400 prompts with one pair each, 60% won: 0.6 +- 1.96 sqrt(0.24/400)."""
    low, high = interval([(1, 1)] * 240 + [(0, 1)] * 160) or (9, 9)
    reach = 1.96 * math.sqrt(0.24 / 400)
    assert low == pytest.approx(0.6 - reach, abs=0.006)
    assert high == pytest.approx(0.6 + reach, abs=0.006)
    assert interval([(1, 1)] * 9 + [(0, 1)]) == interval([(1, 1)] * 9 + [(0, 1)])


def test_the_interval_is_that_of_scipy() -> None:
    """A ratio of sums over prompts of uneven counts, the percentile bootstrap of both."""
    stats = pytest.importorskip("scipy.stats")
    draw = np.random.default_rng(3)
    below = draw.integers(1, 9, 40)
    above = draw.binomial(below, 0.6)
    ours = interval(list(zip(above.tolist(), below.tolist(), strict=True)))
    theirs = stats.bootstrap(
        (above, below),
        lambda a, b, axis: a.sum(axis) / b.sum(axis),
        paired=True,
        method="percentile",
        n_resamples=2000,
        rng=draw,
    ).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_an_interval_of_ties_alone_is_none() -> None:
    assert interval([]) is None
    assert interval([(0, 0), (0, 0)]) is None
    assert interval([(2, 2)]) == (1, 1)


def test_detectable_difference() -> None:
    """(1.960 + 0.842) / 2 / sqrt(400) = 0.07; never more than there is."""
    assert detectable(400) == pytest.approx(0.0700, abs=1e-4)
    assert detectable(1600) == pytest.approx(0.0350, abs=1e-4)
    assert detectable(1) == detectable(0) == 0.5


def test_bradley_terry_of_two_methods_is_the_ratio_of_their_wins() -> None:
    """Davidson's model fits two methods exactly: strengths as 30 : 10, whatever the ties."""
    for ties in (0, 20):
        points = bradley_terry({("mpd", "uniform"): Tally(30, ties, 10)}, "uniform")
        assert points["uniform"] == 1000
        assert points["mpd"] == pytest.approx(1000 + 400 * math.log10(3), abs=0.1)


def test_bradley_terry_finds_the_strengths_that_made_a_table() -> None:
    """Expected counts of strengths 1, 2 and 4 with v = 0.5, a million pairs each."""
    strengths, v, tallies = {"a": 1.0, "b": 2.0, "c": 4.0}, 0.5, {}
    for first, second in (("a", "b"), ("c", "a"), ("b", "c")):
        s, t = strengths[first], strengths[second]
        odds = np.array([s, v * math.sqrt(s * t), t])
        tallies[first, second] = Tally(*(odds / odds.sum() * 1e6).round().astype(int).tolist())
    points = bradley_terry(tallies, "b")
    assert points["a"] == pytest.approx(1000 - 400 * math.log10(2), abs=0.01)
    assert points["c"] == pytest.approx(1000 + 400 * math.log10(2), abs=0.01)


def test_bradley_terry_is_that_of_evalica() -> None:
    """A table with ties and uneven counts, as its ``newman`` rates it."""
    evalica = pytest.importorskip("evalica")
    table = {
        ("a", "b"): Tally(30, 20, 10),
        ("a", "c"): Tally(25, 5, 12),
        ("b", "c"): Tally(14, 9, 15),
    }
    rows = [
        (first, second, winner, count)
        for (first, second), tally in table.items()
        for winner, count in (
            (evalica.Winner.X, tally.wins),
            (evalica.Winner.Draw, tally.ties),
            (evalica.Winner.Y, tally.losses),
        )
    ]
    firsts, seconds, winners, counts = (list(column) for column in zip(*rows, strict=True))
    scores = evalica.newman(
        firsts, seconds, winners, weights=counts, tolerance=1e-10, limit=10_000
    ).scores
    expected = {name: 1000 + 400 * math.log10(scores[name] / scores["b"]) for name in "abc"}
    assert bradley_terry(table, "b") == pytest.approx(expected, abs=0.02)


def test_bradley_terry_orders_cycles_and_clean_sweeps() -> None:
    """A cycle leaves all alike; one who always wins is far ahead, at a finite place."""
    even = Tally(5, 0, 5)
    sweep = {("a", "b"): Tally(9, 0, 0), ("a", "c"): Tally(9, 0, 0), ("b", "c"): even}
    points = bradley_terry(sweep, "b")
    assert points["c"] == pytest.approx(1000, abs=1e-3)
    assert 1400 < points["a"] < 20_000
    cycle = {("a", "b"): Tally(3, 0, 1), ("b", "c"): Tally(3, 0, 1), ("c", "a"): Tally(3, 0, 1)}
    assert bradley_terry(cycle, "a") == pytest.approx({"a": 1000, "b": 1000, "c": 1000})
    with pytest.raises(ValueError, match="'z' has met nobody"):
        bradley_terry(cycle, "z")


def test_length_control_takes_away_what_length_explains() -> None:
    """Longer always wins: at like length 0.5. Length explains nothing: the plain rate stays."""
    longer = [10, 20, 30, -10, -20, -30]
    verdicts = [1, 1, 1, -1, -1, -1]
    assert length_controlled(verdicts, longer) == pytest.approx(0.5, abs=1e-6)
    assert length_controlled([1, 1, 1, 1, -1, -1], [5, -5, 5, -5, 5, -5]) == pytest.approx(
        4 / 6, abs=1e-3
    )
    mostly_longer = length_controlled([1] * 8 + [-1] * 2, [30] * 8 + [-30] * 2)
    assert mostly_longer is not None
    assert mostly_longer < 0.8
    assert length_controlled([], []) is None
    assert length_controlled([0, 0], [0, 0]) == pytest.approx(0.5)
