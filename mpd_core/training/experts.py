"""Experts: one LoRA adapter a pole, fine-tuned on its style, then by direct preferences."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from accelerate.utils import set_seed
from peft import PeftModel
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from mpd_core.models.adapters import WEIGHTS_FILE
from mpd_core.packs import file_sha256
from mpd_core.preferences import Pole
from mpd_core.training.data import Split, answers_of, preference_pairs
from mpd_core.training.head import score_answers_only
from mpd_core.training.setup import RECORD, Setup
from mpd_core.training.trainer import ADAPTER, MetricsFile, Row, common, datasets, fit, save_adapter


def expert_folder(setup: Setup, pole: Pole) -> Path:
    """A folder with the adapter of a pole: trained here, or the pack's."""
    last = "preference" if setup.recipe.preference_of(pole.name) else "sft"
    here = setup.out / "experts" / pole.name / last / ADAPTER
    packed = setup.pack.spec.experts.adapters.get(pole.name)
    return setup.pack.path(packed.folder) if packed and not here.is_dir() else here


def experts_key(setup: Setup) -> str:
    """A short name for the experts as they are now: what is made with others must not be mixed."""
    known = {name: sha for name, sha in setup.pack.hashes.items() if name == "base"}
    for pole in setup.pack.space.poles:
        file = expert_folder(setup, pole) / WEIGHTS_FILE
        known[pole.name] = file_sha256(file) if file.is_file() else "none of its own"
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:12]


def train_experts(setup: Setup, poles: Sequence[Pole], *, resume: bool) -> None:
    """Train the adapters of these poles; a finished one is left alone when resuming."""
    for pole in poles:
        folder = setup.out / "experts" / pole.name
        _stage(setup, pole, folder / "sft", _sft_trainer, resume=resume)
        if setup.recipe.preference_of(pole.name):
            _stage(setup, pole, folder / "preference", _preference_trainer, resume=resume)


def _stage(setup: Setup, pole: Pole, folder: Path, make: Any, *, resume: bool) -> None:
    if resume and (folder / RECORD).is_file():
        return
    (folder / RECORD).unlink(missing_ok=True)
    set_seed(setup.recipe.seed)  # the adapter's first values too
    trainer = make(setup, pole, folder)
    end = setup.tokenizer.eos_token_id
    weight = setup.recipe.sft_of(pole.name).end_weight if folder.name == "sft" else 1.0
    score_answers_only(trainer.model.get_base_model(), {end: weight})
    trainer.add_callback(MetricsFile(folder, f"{pole.name}: {folder.name}"))
    fit(trainer, folder, resume=resume)
    save_adapter(trainer.model, folder / ADAPTER)
    weights = file_sha256(folder / ADAPTER / WEIGHTS_FILE)
    setup.record(folder, f"expert/{folder.name}", pole=pole.name, weights_sha256=weights)


def _sft_trainer(setup: Setup, pole: Pole, folder: Path) -> SFTTrainer:
    recipe, stage = setup.recipe, setup.recipe.sft_of(pole.name)
    arguments = SFTConfig(
        **common(folder, stage, recipe.seed),
        max_length=recipe.data.max_tokens,
        eos_token=setup.end_of_turn,
        completion_only_loss=True,
    )
    return SFTTrainer(
        model=setup.causal_lm(recipe.lora),
        args=arguments,
        **datasets(partial(_answers, setup, pole), stage, recipe.seed),
        processing_class=setup.tokenizer,
    )


def _preference_trainer(setup: Setup, pole: Pole, folder: Path) -> DPOTrainer:
    recipe, stage = setup.recipe, setup.recipe.preference_of(pole.name)
    assert stage is not None
    weights = {"sigmoid": 1.0, "sft": stage.sft_weight}
    chosen = {name: weight for name, weight in weights.items() if weight}
    arguments = DPOConfig(
        **common(folder, stage, recipe.seed),
        beta=stage.beta,
        loss_type=list(chosen),
        loss_weights=list(chosen.values()),
        max_length=recipe.data.max_tokens,
        precompute_ref_log_probs=True,  # once, instead of a second forward a step
    )
    tuned = folder.parent / "sft" / ADAPTER
    model = PeftModel.from_pretrained(setup.bare(recipe.lora), tuned, is_trainable=True)
    return DPOTrainer(
        model=model,
        args=arguments,
        **datasets(partial(_pairs, setup, pole), stage, recipe.seed),
        processing_class=setup.tokenizer,
    )


def _answers(setup: Setup, pole: Pole, split: Split) -> list[Row]:
    """Prompt and completion as text; the end-of-turn token is part of what is learned."""
    return [
        {
            "prompt": setup.prompt(prompt),
            "completion": answer + setup.end_of_turn,
            "length": len(prompt) + len(answer),
        }
        for prompt, answer in answers_of(setup.styles.split(split), pole)
    ]


def _pairs(setup: Setup, pole: Pole, split: Split) -> list[Row]:
    end = setup.end_of_turn
    return [
        {
            "prompt": setup.prompt(pair.prompt),
            "chosen": pair.chosen + end,
            "rejected": pair.rejected + end,
            "length": pair.length,
        }
        for pair in preference_pairs(setup.styles.split(split), setup.pack.space, pole)
    ]
