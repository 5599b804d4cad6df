"""How replies behave and how their weights move; and whether they show the poles that were chosen.

The table that the toggles are judged by: for every method, preference and dimension the share of
replies that show the chosen pole rather than its opposite. A mean over dimensions hides a dimension
that was given up for the others; the worst cell does not.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray

from mpd_core.engine.plan import BASE
from mpd_core.evaluation import Figures
from mpd_core.evaluation.identified import identify as by_scorer
from mpd_core.evaluation.measures import Scorer, TextJudge
from mpd_core.evaluation.record import Row
from mpd_core.method.preferences import PreferenceSpace
from mpd_core.training import measures
from mpd_core.training.context import TrainingContext
from mpd_core.training.rollouts import Rollout
from mpd_core.training.scoring.reward_models import Scorer as RewardScorer
from mpd_core.training.teacher_forcing import TeacherForcing

Replies = Mapping[str, Sequence[Rollout]]
"""By method."""
TEXTS = 8
FLIPS = 10_000


def identify(setup: TrainingContext, models: RewardScorer, replies: Replies) -> Figures:
    """By method, preference and dimension: ``reward`` and, where there is one, ``measure``."""
    space = setup.pack.space
    rows = [
        {"prompt": r.prompt, "code": r.preference, "method": method, "text": r.text}
        for method, some in replies.items()
        for r in some
    ]
    judge: Scorer = TextJudge.of(setup.pack)
    return by_scorer(space, rows, {"reward": by_rewards(space, models, rows), "measure": judge})


def by_rewards(space: PreferenceSpace, models: RewardScorer, rows: Sequence[Row]) -> Scorer:
    """A scorer of these replies that names, in each dimension, the pole with the largest reward."""
    dimensions, names = space.dimensions, [pole.name for pole in space.poles]
    texts = list(dict.fromkeys((row["prompt"], row["text"]) for row in rows))
    scores = models.score([(*text, names) for text in texts])
    shown = {
        text: {d.name: max((p.name for p in d.poles), key=by_pole.__getitem__) for d in dimensions}
        for text, by_pole in zip(texts, scores, strict=True)
    }
    return lambda prompt, text: shown[prompt, text]


@torch.inference_mode()
def likelihood(setup: TrainingContext, replies: Replies) -> dict[str, float]:
    """Mean ln p a token that the bare base gives the replies: how much sense they make to it."""
    length = setup.recipe.data.max_tokens
    base = TeacherForcing(setup, (), texts=TEXTS, length=length)
    found: dict[str, float] = {}
    for method, some in replies.items():
        prompts = [setup.ids(setup.prompt(reply.prompt)) for reply in some]
        texts = [r.tokens[: length - len(p)] for r, p in zip(some, prompts, strict=True)]
        total = 0.0
        for k, (read,) in base.read(prompts, texts, [(BASE,)] * len(texts), title="likelihood"):
            total += float(read.gather(1, torch.tensor(texts[k])[:, None]).sum())
        found[method] = total / max(1, sum(map(len, texts)))
    return found


def reply_stats(replies: Sequence[Rollout]) -> Figures:
    """How replies end, repeat and read."""
    return {
        "finished": fmean(reply.finished for reply in replies),
        "loops": fmean(measures.loops(reply.text) for reply in replies),
        **{name: fmean(m(r.text) for r in replies) for name, m in measures.MEASURES.items()},
    }


def weight_movement(replies: Sequence[Rollout]) -> Figures:
    """How weights vary over tokens and preferences, and whether they do so where experts differ."""
    spreads, distances, disagreements, entropies = [], list[float](), list[float](), list[float]()
    means: dict[str, list[NDArray[np.float64]]] = {}
    for reply in replies:
        weights = np.array(reply.weights)
        centre, experts = weights.mean(0), weights.shape[1]
        means.setdefault(reply.preference, []).append(centre)
        off = np.abs(weights - centre)
        spreads.append(float(off.mean()))
        distances += (off.sum(1) / 2).tolist()
        disagreements += reply.disagreement
        own = -(weights * np.log(np.where(weights > 0, weights, 1.0))).sum(1)
        # Over that of uniform weights: 1 is uniform, 0 a single expert.
        entropies += (own / math.log(experts) if experts > 1 else own + 1.0).tolist()
    return {
        "moved_in_a_reply": fmean(spreads),
        "entropy": fmean(entropies),
        "mean_weights": {code: np.mean(rows, 0).tolist() for code, rows in means.items()},
        "correlation_with_disagreement": correlation(distances, disagreements),
    }


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
