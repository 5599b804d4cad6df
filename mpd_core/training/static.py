"""The best constant weights: what a PCM must beat, or its weights per token buy nothing."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import fmean

from mpd_core.engine import Engine
from mpd_core.models.base import fastest_precision
from mpd_core.models.threads import passing
from mpd_core.training import rollouts
from mpd_core.training.assemble import working_pack
from mpd_core.training.judge import Judge, references_of
from mpd_core.training.rollouts import Ask
from mpd_core.training.setup import Setup, write_json

FILE = "static.json"


def grid(experts: int, parts: int) -> Iterator[tuple[float, ...]]:
    """All weights that are multiples of 1/parts: corners, and uniform if it divides."""
    for counts in itertools.product(range(parts + 1), repeat=experts):
        if sum(counts) == parts:
            yield tuple(count / parts for count in counts)


def method(weights: Sequence[float]) -> str:
    """The name of constant weights as a method."""
    return "static:" + ",".join(f"{weight:.6f}" for weight in weights)


def search(setup: Setup, judge: Judge, prompts: Sequence[str], tell: Callable[[str], None]) -> Path:
    """Mean reward of every point of the grid, for every preference, on validation prompts.

    Returns:
        A JSON file: by preference ``best`` and ``points``, weights with their mean reward.
    """
    folder = setup.out / "static"
    pack = passing(working_pack, setup, folder / "pack")
    engine = Engine.open(pack, precision=fastest_precision())
    codes = [preference.code for preference in setup.pack.space]
    sampling = references_of(setup).sampling
    try:
        judge.prepare(engine, prompts, codes)
        asks = [
            Ask(prompt, preference.code, method(weights))
            for preference in setup.pack.space
            for weights in grid(len(preference.poles), len(preference.poles))
            for prompt in prompts
        ]
        tell(f"static weights: {len(asks)} replies")
        replies = rollouts.run(engine, asks, sampling)
    finally:
        engine.close()
    rollouts.save(folder / "replies.jsonl", replies)
    found: dict[str, dict[str, list[float]]] = {code: {} for code in codes}
    for judged in passing(judge.judge, replies):
        reply = judged.reply
        found[reply.preference].setdefault(reply.method, []).append(judged.reward)
    table = {code: _ranked(points) for code, points in found.items()}
    write_json(folder / FILE, {"prompts": len(prompts), "preferences": table})
    return folder / FILE


def best_weights(file: Path) -> dict[str, list[float]]:
    """The winners of a search, by preference."""
    table = json.loads(file.read_text(encoding="utf-8"))["preferences"]
    return {code: entry["best"] for code, entry in table.items()}


def _ranked(points: dict[str, list[float]]) -> dict[str, object]:
    ranked = sorted(
        ((fmean(rewards), _weights(name)) for name, rewards in points.items()), reverse=True
    )
    rows = [{"weights": weights, "reward": reward} for reward, weights in ranked]
    return {"best": ranked[0][1], "points": rows}


def _weights(name: str) -> list[float]:
    return [float(part) for part in name.removeprefix("static:").split(",")]
