"""Search for the best constant weights: the static baseline that a PCM has to beat.

The best of many points that were measured on few prompts each is mostly the luckiest one: a smooth
surface through noisy rewards of a few points says more of what lies between and beside them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from mpd_core.engine import Engine
from mpd_core.method.static import Weights, around_uniform, grid, method_name
from mpd_core.models.base import fastest_precision
from mpd_core.models.threads import run_in_fresh_thread
from mpd_core.saving import content_hash, read_json, write_json
from mpd_core.training import rollouts
from mpd_core.training.adapters.experts import experts_key
from mpd_core.training.adapters.rewards import rewards_key
from mpd_core.training.context import TrainingContext
from mpd_core.training.export import trained_pack
from mpd_core.training.rollouts import RolloutRequest
from mpd_core.training.scoring.reward_function import RewardFunction, references_of, reward_of

LENGTH = 0.25
"""Distance on the simplex over which rewards go up or down together."""


def response_surface(tried: Tensor, rewards: Tensor, at: Tensor) -> Tensor:
    """Posterior mean of a Gaussian process, relative to the mean of what was tried.

    A prompt's own level is taken out first: whether it is an easy one says nothing of weights. How
    far the surface moves is read from the data as well: by as much as the points' means spread
    beyond chance. Where they do not, it is flat.

    Args:
        tried: weights, [N, E].
        rewards: of each on the same P prompts, in the same order, P at least 2, [N, P].
        at: where to read the surface, [M, E]; the result is [M], fp64.
    """
    tried, rewards, at = tried.double(), rewards.double(), at.double()
    lead = rewards - rewards.mean(dim=0)
    height = lead.mean(dim=1)
    noise = lead.var(dim=1) / rewards.shape[1]
    spread = (height.square().mean() - noise.mean()).clamp_min(0.0)
    among = spread * _kernel(tried, tried) + torch.diag(noise.clamp_min(1e-12))
    found: Tensor = spread * _kernel(at, tried) @ torch.linalg.solve(among, height)
    return found


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return torch.exp(-torch.cdist(a, b).square() / (2.0 * LENGTH**2))


def result(setup: TrainingContext) -> Path:
    """Result file of a search with the current settings and experts."""
    recipe = setup.recipe
    made_by = {
        "sampling": repr(references_of(setup).sampling),
        "merging": setup.pack.merging(next(iter(setup.pack.space))),
        "references": recipe.references.model_dump(),
        "static": recipe.static.model_dump(),
        "rewards": rewards_key(setup),
        "scorers": {name: spec.model_dump() for name, spec in recipe.scorers.items()},
        "reward": [recipe.pcm.reward, recipe.pcm.aggregate],
        "penalties": [recipe.pcm.rollouts.unfinished, recipe.pcm.rollouts.repeated],
    }
    return setup.out / "static" / f"{experts_key(setup)}-{content_hash(made_by)[:6]}.json"


def _begun(setup: TrainingContext) -> Path:
    """File with the rewards of an unfinished search."""
    return result(setup).with_suffix(".begun.json")


def forget(setup: TrainingContext) -> None:
    """Delete the results of a search with the current settings, finished or not."""
    for file in (result(setup), _begun(setup)):
        file.unlink(missing_ok=True)


def search(
    setup: TrainingContext,
    reward: RewardFunction,
    prompts: Sequence[str],
    tell: Callable[[str], None],
) -> Path:
    """Find the best constant weights of every preference, as the recipe's ``design`` says.

    ``grid``: mean reward of all grid points on half of the prompts, and of the best points on all.
    ``surface``: of a few points on all prompts, and the grid's best point by ``response_surface``.
    What a search that was cut off has found is taken over; it is kept after each preference.

    Returns:
        A JSON file: by preference ``best`` and ``points``, weights with their mean reward.
    """
    pack, spec = run_in_fresh_thread(trained_pack, setup), setup.recipe.static
    counts = {preference.code: len(preference.poles) for preference in setup.pack.space}
    points = {code: list(grid(count, spec.parts, spec.least)) for code, count in counts.items()}
    with Engine.open(pack, precision=fastest_precision()) as engine:
        heats = _Heats(setup, reward, engine, tell)
        if spec.design == "surface":
            heats.run(prompts, {code: around_uniform(count) for code, count in counts.items()})
            table = {code: heats.entry(code, heats.highest(code, points[code])) for code in points}
        else:
            half = -(-len(prompts) // 2)
            heats.run(prompts[:half], points)
            # On these prompts alone: a search that goes on may know more of some.
            finalists = {
                code: heats.ranked(code, prompts[:half])[: spec.finalists] for code in points
            }
            heats.run(prompts, finalists)
            table = {
                code: heats.entry(code, max(some, key=partial(heats.mean, code)))
                for code, some in finalists.items()
            }
    file = result(setup)
    write_json(file, {"prompts": len(prompts), "preferences": table})
    _begun(setup).unlink(missing_ok=True)
    return file


class _Heats:
    """Rewards of static weights measured so far, by preference and weights, then by prompt."""

    def __init__(
        self,
        setup: TrainingContext,
        reward: RewardFunction,
        engine: Engine,
        tell: Callable[[str], None],
    ) -> None:
        self._reward, self._engine, self._tell = reward, engine, tell
        self._spec, self._file = setup.recipe.pcm, _begun(setup)
        self._sampling = references_of(setup).sampling
        self._rewards: dict[tuple[str, Weights], dict[str, float]] = {}
        if self._file.is_file():
            for code, weights, prompt, found in read_json(self._file)["rows"]:
                self._rewards.setdefault((code, tuple(weights)), {})[prompt] = found

    def run(self, prompts: Sequence[str], points: Mapping[str, Sequence[Weights]]) -> None:
        """Measure rewards of some weights on some prompts, greedily; known ones are reused."""
        self._reward.prepare(self._engine, prompts, list(points))
        for code, every in points.items():
            tried = [
                (prompt, weights)
                for weights in every
                for prompt in prompts
                if prompt not in self._rewards.get((code, weights), {})
            ]
            if tried:
                self._try(code, tried)

    def _try(self, code: str, tried: Sequence[tuple[str, Weights]]) -> None:
        start = time.monotonic()
        asks = [RolloutRequest(prompt, code, method_name(weights)) for prompt, weights in tried]
        replies = rollouts.run(self._engine, asks, self._sampling)
        scored = run_in_fresh_thread(self._reward.score, replies)
        for (prompt, weights), entry in zip(tried, scored, strict=True):
            self._rewards.setdefault((code, weights), {})[prompt] = reward_of(entry, self._spec)
        rows = [
            [*key, p, found] for key, some in self._rewards.items() for p, found in some.items()
        ]
        write_json(self._file, {"rows": rows})
        seconds = time.monotonic() - start
        self._tell(f"static weights, {code}: {len(tried)} replies in {seconds:.0f} s")

    def mean(self, code: str, weights: Weights, prompts: Sequence[str] | None = None) -> float:
        """Mean reward over some prompts, or over all that were measured."""
        found = self._rewards[code, weights]
        return fmean(found[prompt] for prompt in prompts or found)

    def ranked(self, code: str, prompts: Sequence[str] | None = None) -> list[Weights]:
        """Weights by falling mean reward; ties keep the grid's order."""
        tried = [weights for known, weights in self._rewards if known == code]
        return sorted(tried, key=lambda weights: -self.mean(code, weights, prompts))

    def highest(self, code: str, points: Sequence[Weights]) -> Weights:
        """Of any points, measured or not, the highest on the surface through what was measured."""
        tried = {
            weights: found for (known, weights), found in self._rewards.items() if known == code
        }
        rewards = [list(found.values()) for found in tried.values()]
        height = response_surface(
            torch.tensor(list(tried)), torch.tensor(rewards), torch.tensor(points)
        )
        return points[int(height.argmax())]

    def entry(self, code: str, best: Weights) -> dict[str, object]:
        """Result entry of a preference: its best point, and what was measured."""
        rows = [
            {
                "weights": weights,
                "reward": self.mean(code, weights),
                "prompts": len(self._rewards[code, weights]),
            }
            for weights in self.ranked(code)
        ]
        return {"best": best, "points": rows}


def best_weights(file: Path) -> dict[str, list[float]]:
    """The best weights by preference, from a search's result."""
    table = read_json(file)["preferences"]
    return {code: entry["best"] for code, entry in table.items()}
