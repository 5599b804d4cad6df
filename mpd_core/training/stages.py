"""The stages of a training that are a few calls each, and all of them in a row."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mpd_core.engine import Engine
from mpd_core.errors import PackError, RequestError
from mpd_core.method.preferences import Pole
from mpd_core.models.adapters import WEIGHTS_FILE
from mpd_core.models.base import fastest_precision
from mpd_core.models.threads import passing
from mpd_core.packs import load_pack
from mpd_core.training import assess as assessing
from mpd_core.training import card, static
from mpd_core.training.assemble import (
    any_trained,
    check_experts,
    check_rewards,
    working_pack,
    write_static,
)
from mpd_core.training.experts import train_experts
from mpd_core.training.figures import FILE, PARTS, read, weights
from mpd_core.training.judge import references_of
from mpd_core.training.pcm import (
    pcm_folder,
    prompts_of,
    reward_judge,
    rewards_of,
    train_pcm,
)
from mpd_core.training.recipe import FILE as RECIPE
from mpd_core.training.rewards import train_rewards
from mpd_core.training.setup import Setup, write_json
from mpd_core.training.trainer import ADAPTER, HEAD

Tell = Callable[[str], None]


def experts(setup: Setup, poles: Sequence[Pole], resume: bool, _: Tell) -> None:
    """LoRA experts of these poles."""
    train_experts(setup, poles, resume=resume)


def rewards(setup: Setup, _: Sequence[Pole], resume: bool, __: Tell) -> None:
    """Reward models of all poles."""
    train_rewards(setup, resume=resume)


def references(setup: Setup, _: Sequence[Pole], resume: bool, tell: Tell) -> None:  # noqa: ARG001
    """The baseline's replies for every prompt that PCM training will use; known ones stay."""
    used = (prompts_of(setup, k) for k in range(setup.recipe.pcm.iterations))
    prompts = list(dict.fromkeys(prompt for some in used for prompt in some))
    codes = [preference.code for preference in setup.pack.space]
    pack = passing(working_pack, setup, setup.out / "references" / "pack")
    engine = Engine.open(pack, precision=fastest_precision())
    size = setup.recipe.pcm.rollouts.prompts
    try:
        for start in range(0, len(prompts), size):  # in pieces: each is kept when it is done
            references_of(setup).ensure(engine, prompts[start : start + size], codes)
            tell(f"references: {min(start + size, len(prompts))} of {len(prompts)} prompts")
    finally:
        engine.close()


def search_static(setup: Setup, _: Sequence[Pole], resume: bool, tell: Tell) -> None:
    """The grid of constant weights on the first validation prompts."""
    if resume and static.result(setup).is_file():
        return
    check_rewards(setup)
    rows = setup.styles.split("valid")[: setup.recipe.static.prompts]
    judge = passing(reward_judge, setup)
    static.search(setup, judge, [row.prompt for row in rows], tell)


def pcm(setup: Setup, _: Sequence[Pole], resume: bool, tell: Tell) -> None:
    """The Preference Control Model."""
    check_experts(setup)
    check_rewards(setup)
    train_pcm(setup, resume=resume, tell=tell)


def everything(setup: Setup, poles: Sequence[Pole], resume: bool, tell: Tell) -> None:
    """All stages, in the order in which one needs the other."""
    for stage in (experts, rewards, references, search_static, pcm):
        stage(setup, poles, resume, tell)


RUN: Mapping[str, Callable[[Setup, Sequence[Pole], bool, Tell], None]] = {
    "experts": experts,
    "rewards": rewards,
    "references": references,
    "static": search_static,
    "pcm": pcm,
    "all": everything,
}


def install(setup: Setup, folder: Path) -> Path:
    """Write what has been trained so far into a pack's folder.

    Raises:
        PackError: nothing has been, or weights of a stage that was cut off are missing.
    """
    trained = pcm_folder(setup)
    parts = [(trained / ADAPTER / WEIGHTS_FILE).is_file(), (trained / HEAD).is_file()]
    if any(parts) and not all(parts):
        raise PackError(f"pcm: {trained} was cut off: run train pcm --resume first.")
    if not (any(parts) or any_trained(setup)):
        raise PackError(f"Nothing has been trained in {setup.out}: run train experts first.")
    working_pack(setup, folder, trained if all(parts) else None, rewards=True)
    best = static.result(setup)
    if best.is_file():
        write_static(folder, static.best_weights(best))
    if not (folder / RECIPE).exists():  # the card says that it lies beside it
        shutil.copyfile(setup.pack.folder / RECIPE, folder / RECIPE)
    pack = load_pack(folder)
    card.write(pack, read(pack, missing_ok=True))
    return folder


def assess(setup: Setup, only: Sequence[str], external: Path | None, tell: Tell) -> None:
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
        figures[name] = _figures(setup, name, out, external)
        figures.setdefault("weights", {})[name] = weights(setup.pack, name)
        figures["recipe"] = json.loads(setup.recipe.model_dump_json())
        figures["data_sha256"] = setup.styles.sha256
        write_json(setup.pack.folder / FILE, figures)
    card.write(setup.pack, figures)


def _figures(setup: Setup, name: str, out: Path, external: Path | None) -> dict[str, Any]:
    if name == "rewards":
        models = passing(rewards_of, setup)
        return passing(assessing.rewards, setup, models, external)
    engine = Engine.open(setup.pack)  # in the precision that visitors get
    try:
        if name == "experts":
            models = passing(rewards_of, setup)
            return assessing.experts(setup, engine, models, out)
        return assessing.mixtures(setup, engine, out)
    finally:
        engine.close()
