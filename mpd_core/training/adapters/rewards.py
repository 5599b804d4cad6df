"""Reward models: one adapter on the base, a linear head with one score per pole, pairwise loss."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mpd_core.models.adapters import WEIGHTS_FILE
from mpd_core.packs import file_sha256
from mpd_core.saving import content_hash
from mpd_core.training.adapters.fitting import begins, fit
from mpd_core.training.context import TrainingContext
from mpd_core.training.data import Styled, comparisons
from mpd_core.training.packed import pack_answers, states
from mpd_core.training.results import ADAPTER, HEAD, save_adapter

PAIRS = "pairs."
"""Before the names of the tensors that pairs of written answers taught, where others follow."""


def reward_folder(setup: TrainingContext) -> Path:
    """A folder with the reward models, adapter and head: trained here, or the pack's."""
    return setup.folder("rewards", setup.pack.spec.rewards)


def rewards_key(setup: TrainingContext) -> str:
    """A short hash of the current reward models, adapter and head; see ``experts_key``."""
    files = (reward_folder(setup) / name for name in (WEIGHTS_FILE, HEAD))
    return content_hash([file_sha256(file) for file in files if file.is_file()])[:12]


class RewardModel(nn.Module):
    """The frozen base with an adapter, and a score for every pole at the end of an answer."""

    def __init__(self, setup: TrainingContext) -> None:
        """A new model whose head is zero."""
        super().__init__()
        self._setup = setup
        self.body = setup.causal_lm(setup.recipe.reward.lora)
        width, poles = self.body.config.hidden_size, len(setup.pack.space.poles)
        self.head = nn.Linear(width, poles, device=next(self.body.parameters()).device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, rows: Sequence[tuple[str, Sequence[str]]]) -> Tensor:
        """Scores of packed answers, [answers of all rows, poles]."""
        batch = pack_answers(self._setup, rows)
        hidden = states(self.body, batch.ids, batch.layout, mixed=self._setup.mixed)
        scores: Tensor = self.head(hidden[batch.last.to(hidden.device)].float())
        return scores


def train_rewards(setup: TrainingContext, *, resume: bool) -> None:
    """Train the reward models of all poles at once; when resuming, a finished one is kept."""
    folder = setup.out / "rewards"
    if not begins(setup, folder, resume=resume):
        return
    model = RewardModel(setup)
    train = setup.compared("train")
    fit(
        model,
        train,
        setup.compared("valid"),
        lambda model, rows: comparison_loss(setup, model, rows),
        setup.recipe.reward,
        folder,
        title="Reward models",
        seed=setup.recipe.seed,
        resume=resume,
    )
    count = min(len(train), setup.recipe.reward.centred_on)
    _centre(setup, model, random.Random(setup.recipe.seed).sample(train, count))
    save_adapter(model.body, folder / ADAPTER)
    head = {"weight": model.head.weight, "bias": model.head.bias}
    save_file({k: v.detach().float().cpu() for k, v in head.items()}, folder / ADAPTER / HEAD)
    setup.record(folder, "rewards", taught_sha256=setup.taught.sha256)


def comparison_loss(
    setup: TrainingContext, model: Any, rows: Sequence[Styled]
) -> tuple[Tensor, int]:
    """-ln sigmoid(r_chosen - r_rejected), Bradley and Terry's likelihood of what was preferred: its
    sum over some rows' comparisons, and their number."""
    space, spec = setup.pack.space, setup.recipe.reward
    scores = model([(row.prompt, list(row.answers.values())) for row in rows])
    first, chosen, rejected, poles = 0, [], [], []
    for row in rows:
        names = list(row.answers)
        for pair in comparisons(space, names):
            chosen.append(first + names.index(pair.chosen))
            rejected.append(first + names.index(pair.rejected))
            poles.append(space.poles.index(pair.pole))
        first += len(names)
    better, worse = scores[chosen, poles], scores[rejected, poles]
    loss = -nn.functional.logsigmoid(better - worse) + spec.centre * (better + worse).square()
    return loss.sum(), len(poles)


@torch.no_grad()
def _centre(setup: TrainingContext, model: RewardModel, rows: Sequence[Styled]) -> None:
    """Scores whose mean over the answers to all preferences is 0.

    Half of them show a pole of two and half do not, so that 0 lies between, and scores of different
    poles can be compared.
    """
    codes = setup.pack.space.codes
    scores = [model([(row.prompt, row.texts(codes))]) for row in rows if row.texts(codes)]
    if scores:
        model.head.bias.sub_(torch.cat(scores).mean(dim=0))


def load_head(folder: Path, *, of_pairs: bool = False) -> tuple[Tensor, Tensor]:
    """Weight [poles, D] and bias [poles] of saved reward models.

    ``of_pairs``: as pairs of written answers taught them, where verdicts have moved them since.
    """
    tensors = load_file(folder / HEAD)
    moved = PAIRS + "weight" in tensors
    before = PAIRS if of_pairs and moved else ""
    return tensors[before + "weight"], tensors[before + "bias"]
