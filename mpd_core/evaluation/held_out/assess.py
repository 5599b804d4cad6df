"""Held-out figures of a trained pack: what its report prints, recomputed from its weights."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from mpd_core.engine import Engine
from mpd_core.evaluation import Figures
from mpd_core.evaluation.held_out.identification import (
    identify,
    likelihood,
    reply_stats,
    sign_flip,
    weight_movement,
    wins,
)
from mpd_core.method.preferences import Pole
from mpd_core.models.threads import run_in_fresh_thread
from mpd_core.request import Space
from mpd_core.training import measures, rollouts
from mpd_core.training.context import TrainingContext
from mpd_core.training.data import Comparison, Styled, comparisons
from mpd_core.training.rollouts import RolloutRequest
from mpd_core.training.scoring.reward_function import ScoredReply, references_of, reward_function
from mpd_core.training.scoring.reward_models import Rewards

EXPERT_TOKENS = 256
Pairs = Sequence[tuple[Styled, Comparison]]


def rewards(setup: TrainingContext, models: Rewards) -> Figures:
    """Pair accuracy on the test split, by pole and by what is held, beside two simple rules."""
    train, test = setup.styles.split("train"), setup.styles.split("test")
    named = [(row, name) for row in test for name in row.answers]
    poles = [pole.name for pole in setup.pack.space.poles]
    found = models.score([(row.prompt, row.answers[name], poles) for row, name in named])
    scored = {(row.id, name): scores for (row, name), scores in zip(named, found, strict=True)}
    figures: Figures = {}
    for pole in setup.pack.space.poles:
        figures[pole.name] = {}
        learn, held = _pairs(setup, train, pole), _pairs(setup, test, pole)
        for kind in dict.fromkeys(pair.kind for _, pair in held):
            rows = [(row, pair) for row, pair in held if pair.kind == kind]
            alike = [(row, pair) for row, pair in learn if pair.kind == kind]
            right = (
                scored[row.id, p.chosen][pole.name] > scored[row.id, p.rejected][pole.name]
                for row, p in rows
            )
            figures[pole.name][kind] = {
                "pairs": len(rows),
                "accuracy": fmean(right),
                "length_only": _rule(measures.length, alike, rows),
                "readability_only": _rule(measures.grade, alike, rows),
            }
    return figures


def _pairs(setup: TrainingContext, rows: Sequence[Styled], pole: Pole) -> Pairs:
    space = setup.pack.space
    return [(r, p) for r in rows for p in comparisons(space, r.answers) if p.pole == pole]


def _rule(measure: Callable[[str], float], learn: Pairs, held: Pairs) -> float:
    """Accuracy of "more is better", or of "less is better" if that fits the training pairs."""

    def larger(pairs: Pairs) -> float:
        chosen = [measure(row.answers[pair.chosen]) for row, pair in pairs]
        return wins(chosen, [measure(row.answers[pair.rejected]) for row, pair in pairs])

    found = larger(held)
    return found if larger(learn) >= 0.5 else 1.0 - found


def experts(setup: TrainingContext, engine: Engine, models: Rewards, out: Path) -> Figures:
    """Each expert alone against the base on the test prompts, greedy, 256 tokens."""
    sampling = setup.pack.spec.decode.sampling(max_new_tokens=EXPERT_TOKENS)
    prompts = [row.prompt for row in setup.styles.split("test")]
    code = next(iter(setup.pack.space)).code
    poles = setup.pack.space.poles
    methods = ["vanilla", *(f"expert:{pole.name}" for pole in poles)]
    asks = [RolloutRequest(prompt, code, method) for method in methods for prompt in prompts]
    replies = rollouts.run(engine, asks, sampling)
    rollouts.save(out / "experts.jsonl", replies)
    said = {m: [r for r in replies if r.method == m] for m in methods}
    figures: Figures = {"vanilla": reply_stats(said["vanilla"])}
    for pole in poles:
        both = said[f"expert:{pole.name}"], said["vanilla"]
        asked = [(r.prompt, r.text, (pole.name,)) for some in both for r in some]
        scores = [found[pole.name] for found in run_in_fresh_thread(models.score, asked)]
        own = scores[: len(both[0])], scores[len(both[0]) :]
        figures[pole.name] = {**reply_stats(both[0]), "reward_wins": wins(*own)}
        if name := setup.recipe.measures.get(pole.name):
            texts = ([measures.signed(name)(r.text) for r in some] for some in both)
            figures[pole.name] |= {"measure": name, "measure_wins": wins(*texts)}
    return figures


METHODS = ("mpd", "uniform", "static", "soup", "prompting")
ELSEWHERE = ("mpd", "uniform")
"""What is compared in the paper's spaces where they are not the pack's own; prompting is the same
in all."""


def schemes(engine: Engine) -> dict[str, tuple[str, Space]]:
    """What is compared, by name: methods in the pack's space, then some in the paper's spaces."""
    own = engine.pack.spec.decode.space
    merged = [m for m in METHODS if m in engine.methods]
    found: dict[str, tuple[str, Space]] = {m: (m, own) for m in merged}
    spaces: tuple[Space, ...] = ("probability", "logit")
    for space in (space for space in spaces if space != own):
        found |= {f"{m}@{space}": (m, space) for m in ELSEWHERE if m in merged}
    return found


def mixtures(setup: TrainingContext, engine: Engine, out: Path) -> Figures:
    """MPD against its baselines on the test prompts, every preference, greedy, in every space."""
    reward = run_in_fresh_thread(reward_function, setup)
    prompts = [row.prompt for row in setup.styles.split("test")][: setup.recipe.report.prompts]
    codes = setup.pack.space.codes
    compared = schemes(engine)
    asks = {
        name: [RolloutRequest(p, code, method, space=space) for p in prompts for code in codes]
        for name, (method, space) in compared.items()
    }
    flat = [ask for some in asks.values() for ask in some]
    singles = _single_experts(setup, prompts)
    sampling = references_of(setup).sampling
    replies = rollouts.run(engine, [*flat, *singles], sampling)
    rollouts.save(out / "mixtures.jsonl", replies)
    reward.prepare(engine, prompts, codes)
    scored = iter(run_in_fresh_thread(reward.score, replies[: len(flat)]))
    by_name = {name: list(itertools.islice(scored, len(some))) for name, some in asks.items()}
    figures: Figures = {
        name: {
            "reward": fmean(j.reward for j in rows),
            "by_preference": {
                code: fmean(j.reward for j in rows if j.reply.preference == code) for code in codes
            },
            **reply_stats([j.reply for j in rows]),
        }
        for name, rows in by_name.items()
    }
    for other in compared:
        if other != "mpd":
            figures[f"mpd_vs_{other}"] = _paired(codes, by_name["mpd"], by_name[other])
    figures["schemes"] = list(compared)
    figures["weights"] = weight_movement([j.reply for j in by_name["mpd"]])
    texts = {name: [j.reply for j in rows] for name, rows in by_name.items()}
    texts |= {reply.method: [] for reply in replies[len(flat) :]}
    for reply in replies[len(flat) :]:  # for every preference that has its pole
        pole = reply.method.removeprefix("expert:")
        texts[reply.method] += [
            replace(reply, preference=preference.code)
            for preference in setup.pack.space
            if pole in {own.name for own in preference.poles}
        ]
    figures["identification"] = run_in_fresh_thread(identify, setup, reward.models, texts)
    figures["likelihood"] = run_in_fresh_thread(likelihood, setup, texts)
    return figures


def _single_experts(setup: TrainingContext, prompts: Sequence[str]) -> list[RolloutRequest]:
    """Each expert alone; what it says does not depend on the other letters."""
    first = {pole: p.code for p in setup.pack.space for pole in p.poles}
    return [
        RolloutRequest(prompt, first[pole], f"expert:{pole.name}", space="probability")
        for pole in setup.pack.space.poles
        for prompt in prompts
    ]


def _paired(
    codes: Sequence[str], first: Sequence[ScoredReply], second: Sequence[ScoredReply]
) -> Figures:
    """Differences of rewards, paired by prompt and preference; p over prompts."""
    by_prompt: dict[str, list[float]] = {}
    by_code: dict[str, list[float]] = {code: [] for code in codes}
    for a, b in zip(first, second, strict=True):
        gap = a.reward - b.reward
        by_prompt.setdefault(a.reply.prompt, []).append(gap)
        by_code[a.reply.preference].append(gap)
    decided = [gap > 0 for gaps in by_prompt.values() for gap in gaps if gap != 0]
    return {
        "gain": fmean(gap for gaps in by_prompt.values() for gap in gaps),
        "p": sign_flip([fmean(gaps) for gaps in by_prompt.values()]),
        "wins": fmean(decided) if decided else 0.5,
        "decided": len(decided),
        "by_preference": {
            code: {"gain": fmean(gaps), "p": sign_flip(gaps)} for code, gaps in by_code.items()
        },
    }
