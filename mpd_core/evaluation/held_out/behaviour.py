"""How replies behave and how their weights move, with small statistics on paired figures."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from statistics import fmean

from mpd_core.evaluation import Figures
from mpd_core.training import measures
from mpd_core.training.rollouts import Rollout

FLIPS = 10_000


def reply_stats(replies: Sequence[Rollout]) -> Figures:
    """How replies end, repeat and read."""
    return {
        "finished": fmean(reply.finished for reply in replies),
        "loops": fmean(measures.loops(reply.text) for reply in replies),
        **{name: fmean(m(r.text) for r in replies) for name, m in measures.MEASURES.items()},
    }


def weight_movement(replies: Sequence[Rollout]) -> Figures:
    """How weights vary over tokens and preferences, and whether they do so where experts differ."""
    spreads, distances, disagreements, entropies = [], [], [], []
    means: dict[str, list[list[float]]] = {}
    for reply in replies:
        columns = list(zip(*reply.weights, strict=True))
        centre = [fmean(column) for column in columns]
        means.setdefault(reply.preference, []).append(centre)
        for row, gap in zip(reply.weights, reply.disagreement, strict=True):
            off = sum(abs(w - m) for w, m in zip(row, centre, strict=True)) / 2
            distances.append(off)
            disagreements.append(gap)
            entropies.append(_entropy(row))
        spreads.append(fmean(abs(w - m) for c, m in zip(columns, centre, strict=True) for w in c))
    return {
        "moved_in_a_reply": fmean(spreads),
        "entropy": fmean(entropies),
        "mean_weights": {
            code: [fmean(column) for column in zip(*rows, strict=True)]
            for code, rows in means.items()
        },
        "correlation_with_disagreement": correlation(distances, disagreements),
    }


def _entropy(weights: Sequence[float]) -> float:
    """Over that of uniform weights: 1 is uniform, 0 a single expert."""
    said = -sum(weight * math.log(weight) for weight in weights if weight > 0)
    return said / math.log(len(weights)) if len(weights) > 1 else 1.0


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
