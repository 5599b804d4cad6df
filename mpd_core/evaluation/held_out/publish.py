"""What a training leaves in a pack's folder: weights, held-out figures and the card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mpd_core.engine import Engine
from mpd_core.errors import PackError, RequestError
from mpd_core.evaluation.held_out import assess as assessing
from mpd_core.evaluation.held_out import card
from mpd_core.evaluation.held_out.card import FILE, PARTS, read, weights
from mpd_core.models.adapters import WEIGHTS_FILE
from mpd_core.models.threads import run_in_fresh_thread
from mpd_core.packs import load_pack
from mpd_core.saving import write_json
from mpd_core.training.context import RECORD, TrainingContext
from mpd_core.training.export import any_trained, write_pack, write_static
from mpd_core.training.pcm import static_search
from mpd_core.training.pcm.loop import pcm_folder
from mpd_core.training.recipe import FILE as RECIPE
from mpd_core.training.results import ADAPTER, HEAD
from mpd_core.training.scoring.reward_models import rewards_of

Tell = Callable[[str], None]


def install(setup: TrainingContext, folder: Path) -> Path:
    """Write what has been trained so far into a pack's folder.

    Raises:
        PackError: nothing has been, or weights of a stage that was cut off are missing.
    """
    trained = pcm_folder(setup)
    parts = [(trained / name).is_file() for name in (f"{ADAPTER}/{WEIGHTS_FILE}", HEAD, RECORD)]
    if any(parts) and not all(parts):
        raise PackError(f"pcm: {trained} was cut off: run train pcm --resume first.")
    if not (any(parts) or any_trained(setup)):
        raise PackError(f"Nothing has been trained in {setup.out}: run train experts first.")
    keep = setup.recipe.pcm.keep
    write_pack(setup, folder, trained if all(parts) else None, keep=keep)
    best = static_search.result(setup)
    if best.is_file():
        write_static(folder, static_search.best_weights(best))
    if not (folder / RECIPE).exists():  # the card says that it lies beside it
        shutil.copyfile(setup.pack.folder / RECIPE, folder / RECIPE)
    pack = load_pack(folder)
    card.write(pack, read(pack, missing_ok=True))
    return folder


def assess(setup: TrainingContext, only: Sequence[str], tell: Tell) -> None:
    """Compute held-out figures and store them beside the pack.

    Raises:
        RequestError: an unknown part.
        PackError: the pack has no trained weights.
    """
    for name in only:
        if name not in PARTS:
            raise RequestError(f"Unknown part '{name[:60]}': use {', '.join(PARTS)}.")
    if not setup.pack.spec.rewards:
        raise PackError("The pack has no reward models: run train install first.")
    figures = read(setup.pack, missing_ok=True)
    for name in figures.pop("stale", ()):
        figures.pop(name, None)
    out = setup.out / "report"
    for name in only or PARTS:
        tell(f"report: {name}")
        figures[name] = _figures(setup, name, out)
        figures.setdefault("weights", {})[name] = weights(setup.pack, name)
        figures["recipe"] = json.loads(setup.recipe.model_dump_json())
        figures["data_sha256"] = setup.styles.sha256
        write_json(setup.pack.folder / FILE, figures)
    card.write(setup.pack, figures)


def _figures(setup: TrainingContext, name: str, out: Path) -> dict[str, Any]:
    if name == "mixtures":
        with Engine.open(setup.pack) as engine:  # in the precision that visitors get
            return assessing.mixtures(setup, engine, out)
    models = run_in_fresh_thread(rewards_of, setup)
    if name == "rewards":
        return run_in_fresh_thread(assessing.rewards, setup, models)
    with Engine.open(setup.pack) as engine:
        return assessing.experts(setup, engine, models, out)
