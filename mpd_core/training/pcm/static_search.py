"""Search for the best constant weights: what a PCM must beat, or weights per token buy nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from mpd_core.engine import Engine
from mpd_core.method.static import Weights, grid, method_name
from mpd_core.models.base import fastest_precision
from mpd_core.models.threads import run_in_fresh_thread
from mpd_core.training import rollouts
from mpd_core.training.adapters.experts import experts_key
from mpd_core.training.context import TrainingContext, write_json
from mpd_core.training.export import trained_pack
from mpd_core.training.rollouts import Ask
from mpd_core.training.scoring.reward_function import RewardFunction, references_of


def result(setup: TrainingContext) -> Path:
    """Where a search among the experts as they are now is kept."""
    return setup.out / "static" / f"{experts_key(setup)}.json"


def search(
    setup: TrainingContext,
    reward: RewardFunction,
    prompts: Sequence[str],
    tell: Callable[[str], None],
) -> Path:
    """Mean reward of every point of the grid on half of the prompts, of the best ones on all.

    Returns:
        A JSON file: by preference ``best`` and ``points``, weights with their mean reward.
    """
    pack, spec = run_in_fresh_thread(trained_pack, setup), setup.recipe.static
    points = {
        preference.code: list(grid(len(preference.poles), spec.parts, spec.least))
        for preference in setup.pack.space
    }
    half = -(-len(prompts) // 2)
    engine = Engine.open(pack, precision=fastest_precision())
    try:
        heats = _Heats(setup, reward, engine, tell)
        heats.run(prompts[:half], points)
        finalists = {code: heats.ranked(code)[: setup.recipe.static.finalists] for code in points}
        heats.run(prompts[half:], finalists)
    finally:
        engine.close()
    table = {code: heats.entry(code, finalists[code]) for code in points}
    file = result(setup)
    write_json(file, {"prompts": len(prompts), "preferences": table})
    return file


class _Heats:
    """Rewards of constant weights so far, by preference."""

    def __init__(
        self,
        setup: TrainingContext,
        reward: RewardFunction,
        engine: Engine,
        tell: Callable[[str], None],
    ) -> None:
        self._reward, self._engine, self._tell = reward, engine, tell
        self._sampling = references_of(setup).sampling
        self._rewards: dict[tuple[str, Weights], list[float]] = {}

    def run(self, prompts: Sequence[str], points: Mapping[str, Sequence[Weights]]) -> None:
        """Try some weights on some prompts, greedily."""
        self._reward.prepare(self._engine, prompts, list(points))
        tried = [
            (prompt, code, weights)
            for code, every in points.items()
            for weights in every
            for prompt in prompts
        ]
        self._tell(f"static weights: {len(tried)} replies")
        asks = [Ask(prompt, code, method_name(weights)) for prompt, code, weights in tried]
        replies = rollouts.run(self._engine, asks, self._sampling)
        scored = run_in_fresh_thread(self._reward.score, replies)
        for (_, code, weights), entry in zip(tried, scored, strict=True):
            self._rewards.setdefault((code, weights), []).append(entry.reward)

    def mean(self, code: str, weights: Weights) -> float:
        return fmean(self._rewards[code, weights])

    def ranked(self, code: str) -> list[Weights]:
        """The best first."""
        tried = [weights for known, weights in self._rewards if known == code]
        return sorted(tried, key=lambda weights: self.mean(code, weights), reverse=True)

    def entry(self, code: str, finalists: Sequence[Weights]) -> dict[str, object]:
        """What is written down of a preference; the best is one that was tried on all prompts."""
        rows = [
            {
                "weights": weights,
                "reward": self.mean(code, weights),
                "prompts": len(self._rewards[code, weights]),
            }
            for weights in self.ranked(code)
        ]
        return {"best": max(finalists, key=lambda w: self.mean(code, w)), "points": rows}


def best_weights(file: Path) -> dict[str, list[float]]:
    """The winners of a search, by preference."""
    table = json.loads(file.read_text(encoding="utf-8"))["preferences"]
    return {code: entry["best"] for code, entry in table.items()}
