"""Reward models: one a pole, an adapter and a scalar head on the base, pairwise loss."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from accelerate.utils import set_seed
from safetensors.torch import save_file
from trl import RewardConfig, RewardTrainer

from mpd_core.models.adapters import WEIGHTS_FILE
from mpd_core.packs import file_sha256
from mpd_core.preferences import Pole
from mpd_core.training.data import Split, reward_pairs
from mpd_core.training.setup import RECORD, Setup
from mpd_core.training.trainer import (
    ADAPTER,
    HEAD,
    MetricsFile,
    Row,
    common,
    datasets,
    fit,
    save_adapter,
)


def reward_folder(setup: Setup, pole: Pole) -> Path:
    """A folder with the reward model of a pole, adapter and head: trained here, or the pack's."""
    here = setup.out / "rewards" / pole.name / ADAPTER
    packed = setup.pack.spec.rewards.get(pole.name)
    return setup.pack.path(packed.folder) if packed and not here.is_dir() else here


def train_rewards(setup: Setup, poles: Sequence[Pole], *, resume: bool) -> None:
    """Train the reward models of these poles; a finished one is left alone when resuming."""
    for pole in poles:
        folder = setup.out / "rewards" / pole.name
        if resume and (folder / RECORD).is_file():
            continue
        (folder / RECORD).unlink(missing_ok=True)
        set_seed(setup.recipe.seed)  # the adapter's first values too
        trainer = _trainer(setup, pole, folder)
        trainer.add_callback(MetricsFile(folder, f"Reward of {pole.name}"))
        fit(trainer, folder, resume=resume)
        _save(trainer.model, folder / ADAPTER)
        weights = file_sha256(folder / ADAPTER / WEIGHTS_FILE)
        setup.record(folder, "reward", pole=pole.name, weights_sha256=weights)


def _trainer(setup: Setup, pole: Pole, folder: Path) -> RewardTrainer:
    recipe, stage = setup.recipe, setup.recipe.reward
    arguments = RewardConfig(
        **common(folder, stage, recipe.seed),
        max_length=recipe.data.max_tokens,
        eos_token=setup.end_of_turn,
        center_rewards_coefficient=stage.centre or None,
    )
    return RewardTrainer(
        model=setup.reward_model(stage.lora),
        args=arguments,
        **datasets(partial(_pairs, setup, pole), stage, recipe.seed),
        processing_class=setup.tokenizer,
    )


def _pairs(setup: Setup, pole: Pole, split: Split) -> list[Row]:
    def text(prompt: str, answer: str) -> str:
        return setup.prompt(prompt) + answer + setup.end_of_turn

    return [
        {
            "chosen": text(pair.prompt, pair.chosen),
            "rejected": text(pair.prompt, pair.rejected),
            "length": pair.length,
        }
        for pair in reward_pairs(setup.styles.split(split), setup.pack.space, pole)
    ]


def _save(model: torch.nn.Module, folder: Path) -> None:
    """The adapter as the engine reads it, and the scalar head beside it."""
    save_adapter(model, folder, skip=("score",))
    weight = model.get_base_model().score.modules_to_save["default"].weight  # type: ignore[operator]
    save_file({"weight": weight.detach().float().contiguous()}, folder / HEAD)
