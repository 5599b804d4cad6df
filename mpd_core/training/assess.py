"""Held-out figures of a trained pack: what its report prints, recomputed from its weights."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from mpd_core.engine import Engine
from mpd_core.models.threads import passing
from mpd_core.preferences import Pole
from mpd_core.training import measures, rollouts
from mpd_core.training.behaviour import Figures, form, toggles, weights_move
from mpd_core.training.data import Pair, reward_pairs
from mpd_core.training.judge import Judged, references_of
from mpd_core.training.pcm import reward_judge
from mpd_core.training.rollouts import Ask, Reply
from mpd_core.training.scoring import Rewards
from mpd_core.training.setup import Setup
from mpd_core.training.significance import sign_flip, wins

EXPERT_TOKENS = 256
EXTERNAL: Mapping[str, tuple[str, str, str]] = {
    "human_reading_level.jsonl": ("elementary", "elementary_like", "knowledgeable_like"),
    "human_like_politeness.jsonl": ("friendly", "polite", "impolite"),
    "concise_verbose.jsonl": ("concise", "concise", "verbose"),
}
"""Third-party pairs by file: the pole that the first of two fields should please more."""


def rewards(setup: Setup, models: Rewards, external: Path | None = None) -> Figures:
    """Pair accuracy on the test split, by pole and kind of pair, beside two simple rules."""
    train, test = setup.styles.split("train"), setup.styles.split("test")
    figures: Figures = {}
    for pole in setup.pack.space.poles:
        learn = reward_pairs(train, setup.pack.space, pole)
        held = reward_pairs(test, setup.pack.space, pole)
        right = _preferred(models, pole.name, held)
        figures[pole.name] = {
            kind: {
                "pairs": len(rows),
                "accuracy": fmean(ok for ok, _ in rows),
                "length_only": _rule(measures.length, learn, [p for _, p in rows]),
                "readability_only": _rule(measures.grade, learn, [p for _, p in rows]),
            }
            for kind, rows in _by_kind(zip(right, held, strict=True))
        }
    if external:
        figures["external"] = _external(models, external)
    return figures


def _by_kind(rows: Any) -> Iterator[tuple[str, list[tuple[float, Pair]]]]:
    ordered = sorted(rows, key=lambda row: row[1].kind)
    for kind, group in itertools.groupby(ordered, key=lambda row: row[1].kind):
        yield kind, list(group)


def _preferred(models: Rewards, pole: str, pairs: Sequence[Pair]) -> list[float]:
    score = models.reward(pole)
    prompts = [pair.prompt for pair in pairs]
    chosen = score(prompts, [pair.chosen for pair in pairs])
    rejected = score(prompts, [pair.rejected for pair in pairs])
    return [float(a > b) for a, b in zip(chosen, rejected, strict=True)]


def _rule(measure: Callable[[str], float], learn: Sequence[Pair], held: Sequence[Pair]) -> float:
    """Accuracy of "more is better", or of "less is better" if that fits the training pairs."""

    def larger(pairs: Sequence[Pair]) -> float:
        return wins([measure(p.chosen) for p in pairs], [measure(p.rejected) for p in pairs])

    found = larger(held)
    return found if larger(learn) >= 0.5 else 1.0 - found


def _external(models: Rewards, folder: Path) -> Figures:
    figures: Figures = {}
    for name, (pole, chosen, rejected) in EXTERNAL.items():
        if not (folder / name).is_file():
            continue
        with (folder / name).open(encoding="utf-8-sig") as lines:
            rows = [json.loads(line) for line in lines]
        pairs = [Pair(r.get("prompt", "Say it."), r[chosen], r[rejected], name) for r in rows]
        pairs = random.Random(0).sample(pairs, min(200, len(pairs)))
        figures[name] = {
            "pole": pole,
            "pairs": len(pairs),
            "accuracy": fmean(_preferred(models, pole, pairs)),
            "shorter_first": wins(
                [-measures.length(p.chosen) for p in pairs],
                [-measures.length(p.rejected) for p in pairs],
            ),
        }
    return figures


def experts(setup: Setup, engine: Engine, models: Rewards, out: Path) -> Figures:
    """Each expert alone against the base on the test prompts, greedy, 256 tokens."""
    sampling = setup.pack.spec.decode.sampling(max_new_tokens=EXPERT_TOKENS)
    prompts = [row.prompt for row in setup.styles.split("test")]
    code = next(iter(setup.pack.space)).code
    poles = setup.pack.space.poles
    methods = ["vanilla", *(f"expert:{pole.name}" for pole in poles)]
    asks = [Ask(prompt, code, method) for method in methods for prompt in prompts]
    replies = rollouts.run(engine, asks, sampling)
    rollouts.save(out / "experts.jsonl", replies)
    said = {m: [r for r in replies if r.method == m] for m in methods}
    figures: Figures = {"vanilla": form(said["vanilla"])}
    for pole in poles:
        own, base = said[f"expert:{pole.name}"], said["vanilla"]
        score = passing(models.reward, pole.name)
        figures[pole.name] = {
            **form(own),
            "reward_wins": wins(_scored(score, own), _scored(score, base)),
            **_measured(setup, pole, own, base),
        }
    return figures


def _scored(score: Any, replies: Sequence[Reply]) -> list[float]:
    found: list[float] = passing(score, [r.prompt for r in replies], [r.text for r in replies])
    return found


def _measured(setup: Setup, pole: Pole, own: Sequence[Reply], base: Sequence[Reply]) -> Figures:
    if pole.name not in setup.recipe.measures:
        return {}
    name = setup.recipe.measures[pole.name]
    measure = measures.signed(name)
    won = wins([measure(r.text) for r in own], [measure(r.text) for r in base])
    return {"measure": name, "measure_wins": won}


def mixtures(setup: Setup, engine: Engine, out: Path) -> Figures:
    """MPD against its baselines on the test prompts, every preference, greedy."""
    judge = passing(reward_judge, setup)
    prompts = [row.prompt for row in setup.styles.split("test")]
    codes = [preference.code for preference in setup.pack.space]
    methods = [m for m in ("uniform", "mpd", "static") if m in engine.methods]
    asks = [Ask(p, code, method) for p in prompts for code in codes for method in methods]
    references = references_of(setup)
    replies = rollouts.run(engine, asks, references.sampling)
    rollouts.save(out / "mixtures.jsonl", replies)
    judge.references.know(r for r in replies if r.method == "uniform")
    judge.prepare(engine, prompts, codes)
    judged = passing(judge.judge, replies)
    by_method = {m: [j for j in judged if j.reply.method == m] for m in methods}
    figures: Figures = {m: _reward_figures(codes, rows) for m, rows in by_method.items()}
    for other in methods:
        if other != "mpd":
            figures[f"mpd_vs_{other}"] = _paired(codes, by_method["mpd"], by_method[other])
    figures["weights"] = weights_move([j.reply for j in by_method["mpd"]])
    figures["toggles"] = toggles(setup, judge.models, [j.reply for j in by_method["mpd"]])
    return figures


def _reward_figures(codes: Sequence[str], rows: Sequence[Judged]) -> Figures:
    by_code = {c: fmean(j.reward for j in rows if j.reply.preference == c) for c in codes}
    manner = form([j.reply for j in rows])
    return {"reward": fmean(j.reward for j in rows), "by_preference": by_code, **manner}


def _paired(codes: Sequence[str], first: Sequence[Judged], second: Sequence[Judged]) -> Figures:
    """Differences of rewards, paired by prompt and preference; p over prompts."""
    gaps = [
        (a.reply.prompt, a.reply.preference, a.reward - b.reward)
        for a, b in zip(first, second, strict=True)
    ]
    prompts = dict.fromkeys(prompt for prompt, _, _ in gaps)
    by_prompt = [fmean(gap for p, _, gap in gaps if p == prompt) for prompt in prompts]
    decided = [gap > 0 for _, _, gap in gaps if gap != 0]
    return {
        "gain": fmean(gap for _, _, gap in gaps),
        "p": sign_flip(by_prompt),
        "wins": fmean(decided) if decided else 0.5,
        "decided": len(decided),
        "by_preference": {
            code: {
                "gain": fmean(gap for _, c, gap in gaps if c == code),
                "p": sign_flip([gap for _, c, gap in gaps if c == code]),
            }
            for code in codes
        },
    }
