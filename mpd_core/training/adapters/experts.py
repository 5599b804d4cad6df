"""Experts: one LoRA adapter per pole, each initialised from an adapter trained on every style."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mpd_core.engine.plan import ANCHOR
from mpd_core.errors import PackError
from mpd_core.method.preferences import Pole
from mpd_core.models.adapters import WEIGHTS_FILE, LoraAdapter, load_adapter
from mpd_core.packs import file_sha256
from mpd_core.saving import content_hash
from mpd_core.training.adapters.fitting import begins, fit
from mpd_core.training.context import TrainingContext
from mpd_core.training.data import Split, Styled, common_answers, pole_answers
from mpd_core.training.packed import pack_answers, states
from mpd_core.training.pcm_recipe import StageSpec
from mpd_core.training.results import ADAPTER, save_adapter


def expert_folder(setup: TrainingContext, pole: Pole) -> Path:
    """A folder with the adapter of a pole: trained here, or the pack's."""
    return setup.folder(f"experts/{pole.name}", setup.pack.spec.experts.adapters.get(pole.name))


def anchor_folder(setup: TrainingContext) -> Path:
    """A folder with the adapter that all experts went on from; see ``expert_folder``."""
    return setup.folder(f"experts/{ANCHOR}", setup.pack.spec.experts.anchor)


def load_experts(setup: TrainingContext) -> list[LoraAdapter]:
    """The adapters of all poles.

    Raises:
        PackError: experts that are not adapters.
    """
    poles = setup.pack.space.poles
    return [load_adapter(pole.name, expert_folder(setup, pole)) for pole in poles]


def experts_key(setup: TrainingContext) -> str:
    """A short hash of the current experts: files made with different experts must not be mixed."""
    known = {name: sha for name, sha in setup.pack.hashes.items() if name == "base"}
    if prior := setup.pack.spec.experts.prior:
        known["prior"] = str(prior)
    folders = {pole.name: expert_folder(setup, pole) for pole in setup.pack.space.poles}
    for name, folder in {**folders, ANCHOR: anchor_folder(setup)}.items():
        file = folder / WEIGHTS_FILE
        known[name] = file_sha256(file) if file.is_file() else "none of its own"
    return content_hash(known)[:12]


def train_experts(setup: TrainingContext, poles: Sequence[Pole], *, resume: bool) -> None:
    """Train the adapters of these poles; when resuming, finished ones are kept.

    With a table ``[anchor]`` in the recipe, one adapter is first trained on the answers to all
    preferences and the neutral ones. Poles go on from it, so that what all styles have in common is
    learned once, and what is left between a pole and it is the pole's style: the shift of the space
    ``strength``, whose anchor it is.
    """
    start, spec = None, setup.recipe.anchor
    if spec is not None:
        start = anchor_folder(setup)
        trained = (start / WEIGHTS_FILE).is_file()
        if not trained or (len(poles) == len(setup.pack.space.poles) and not resume):
            _train(setup, ANCHOR, common_answers(setup.pack.space), spec, None, resume=resume)
            start = anchor_folder(setup)
    for pole in poles:
        names = pole_answers(setup.pack.space, pole)
        _train(setup, pole.name, names, setup.recipe.sft, start, resume=resume)


def _train(
    setup: TrainingContext,
    name: str,
    answers: Sequence[str],
    stage: StageSpec,
    start: Path | None,
    *,
    resume: bool,
) -> None:
    folder = setup.out / "experts" / name
    if not begins(setup, folder, resume=resume):
        return
    model = setup.causal_lm(setup.recipe.lora, start)
    fit(
        model,
        _rows(setup, "train", answers),
        _rows(setup, "valid", answers),
        lambda model, rows: answer_loss(setup, model, rows, answers),
        stage,
        folder,
        title=f"Expert: {name}",
        seed=setup.recipe.seed,
        resume=resume,
    )
    save_adapter(model, folder / ADAPTER)
    taught = {"answers": list(answers), "taught_sha256": setup.taught.sha256}
    setup.record(folder, "expert", name=name, **taught)


def _rows(setup: TrainingContext, split: Split, answers: Iterable[str]) -> list[Styled]:
    rows = [row for row in setup.taught.split(split) if row.texts(answers)]
    if not rows and split == "train":
        raise PackError(f"data.file: no row has an answer named {' or '.join(answers)}.")
    return rows


def answer_loss(
    setup: TrainingContext, model: Any, rows: Sequence[Styled], answers: Sequence[str]
) -> tuple[Tensor, int]:
    """Negative log-likelihood of answers' tokens, end of turn included: sum, and token count."""
    batch = pack_answers(setup, [(row.prompt, row.texts(answers)) for row in rows])
    hidden = states(model, batch.ids, batch.layout, mixed=setup.mixed)
    with torch.autocast(hidden.device.type, torch.bfloat16, enabled=setup.mixed):
        logits = model.get_base_model().lm_head(hidden[batch.before.to(hidden.device)])
    targets = batch.targets.to(hidden.device)
    return torch.nn.functional.cross_entropy(logits.float(), targets, reduction="sum"), len(targets)
