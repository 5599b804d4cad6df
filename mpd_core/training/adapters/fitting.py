"""The loop that trains an adapter on packed answers: AdamW, warm-up and cosine, checkpoints."""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from accelerate.utils import set_seed
from torch import Tensor, nn
from tqdm import tqdm

from mpd_core.training import checkpoint
from mpd_core.training.context import RECORD, TrainingContext
from mpd_core.training.pcm_recipe import StageSpec
from mpd_core.training.results import ADAPTER, CHECKPOINTS, write_metrics

LOGGED = 10
STATE = "state.safetensors"
_Row = TypeVar("_Row")

Loss = Callable[[nn.Module, Sequence[_Row]], tuple[Tensor, int]]
"""Maps a model and a batch of rows to the sum of the losses and the number of terms in it."""


def begins(setup: TrainingContext, folder: Path, *, resume: bool) -> bool:
    """Whether an adapter is yet to be trained: not where a resumed training has finished it.

    Then the former one is taken away, so that a training that is cut off leaves none, and the seed
    is set, for the first values of the new one.
    """
    if resume and (folder / RECORD).is_file():
        return False
    (folder / RECORD).unlink(missing_ok=True)
    shutil.rmtree(folder / ADAPTER, ignore_errors=True)
    set_seed(setup.recipe.seed)
    return True


def in_order(rows: Sequence[_Row], stage: StageSpec, seed: int) -> list[Sequence[_Row]]:
    """Batches of all epochs, shuffled by the seed alone; a partial epoch is an epoch's start."""
    count = max(1, round(stage.epochs * len(rows)))
    draw = random.Random(seed)
    order: list[_Row] = []
    while len(order) < count:
        order += draw.sample(rows, len(rows))
    return [order[k : min(k + stage.batch, count)] for k in range(0, count, stage.batch)]


def fit(
    model: nn.Module,
    train: Sequence[_Row],
    held: Sequence[_Row],
    loss: Loss[_Row],
    stage: StageSpec,
    folder: Path,
    *,
    title: str,
    seed: int,
    resume: bool,
) -> None:
    """Train all parameters of a model that require gradients.

    Args:
        model: in the end with the last step's weights.
        train: rows to learn from, in any order.
        held: rows whose loss is measured at the end.
        loss: see ``Loss``.
        stage: epochs, batch (in rows) and rates.
        folder: of checkpoints, log and curves.
        title: of the curves.
        seed: of the order.
        resume: go on from the last checkpoint, if there is one, to the same weights.
    """
    if not resume:
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=stage.lr, weight_decay=0.0)
    batches, state = in_order(train, stage, seed), folder / CHECKPOINTS / STATE
    log: list[dict[str, float]] = []
    if state.is_file():
        log = json.loads(checkpoint.facts_of(state)["log"])
        checkpoint.load(state, model, optimiser)
    done = int(log[-1]["step"]) if log else 0
    for step in tqdm(range(done, len(batches)), desc=title, leave=False):
        for group in optimiser.param_groups:
            group["lr"] = stage.lr * _rate(step, len(batches), stage.warmup)
        total, terms = loss(model, batches[step])
        (total / terms).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        log.append({"step": step + 1.0, "loss": float(total.detach()) / terms})
        if (step + 1) % stage.save_steps == 0:
            checkpoint.save(state, model, optimiser, {"log": json.dumps(log)})
    end = {"step": float(len(batches)), "held_loss": measure(model, held, loss, stage.batch)}
    write_metrics(folder, title, [*averaged(log), end])


@torch.no_grad()
def measure(model: nn.Module, rows: Sequence[_Row], loss: Loss[_Row], batch: int) -> float:
    """Mean loss over some rows, without gradients."""
    pieces = [loss(model, rows[k : k + batch]) for k in range(0, len(rows), batch)]
    return sum(float(total) for total, _ in pieces) / max(1, sum(terms for _, terms in pieces))


def _rate(step: int, steps: int, warmup: float) -> float:
    """Learning-rate factor: linear warm-up, then cosine decay to zero."""
    up = (step + 1) / max(1.0, warmup * steps)
    return min(1.0, up) * 0.5 * (1 + math.cos(math.pi * step / steps))


def averaged(log: Sequence[dict[str, float]]) -> Iterator[dict[str, float]]:
    """A loss a step as one for every ``LOGGED`` steps."""
    for start in range(0, len(log), LOGGED):
        some = log[start : start + LOGGED]
        yield {"step": some[-1]["step"], "loss": sum(entry["loss"] for entry in some) / len(some)}
