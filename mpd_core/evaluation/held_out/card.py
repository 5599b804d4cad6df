"""The model card of a pack, written from what it holds and what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mpd_core.evaluation.held_out.figures import text
from mpd_core.packs import Pack
from mpd_core.training import recipe

FILE = "README.md"
TEMPLATE = Path(__file__).with_name("card.md")


def write(pack: Pack, figures: Mapping[str, Any]) -> Path:
    """Write the card beside the pack; figures that are not known are not in it."""
    spec, data = pack.spec, recipe.load_recipe(pack).data
    taught = f", and `{data.experts.name}`, which experts learn from" if data.experts else ""
    card = TEMPLATE.read_text(encoding="utf-8").format(
        title=spec.title,
        description=spec.description,
        name=spec.name,
        base=spec.base.name,
        licence=spec.base.license or "see its own card",
        experts=len(spec.experts.adapters),
        poles=", ".join(spec.experts.adapters),
        anchor="the adapter that experts went on from" if spec.experts.anchor else "the bare base",
        rewards="one adapter with a score a pole" if spec.rewards else "none",
        pcm=_pcm(pack),
        learned=", which the PCM was trained on" if pack.trained else "",
        megabytes=_bytes(pack) / 1e6,
        data=f"`{data.file.name}`{taught}",
        recipe=recipe.FILE,
        measured=text(figures) if figures else "Nothing has been measured yet.",
    )
    file = pack.folder / FILE
    file.write_text(card, encoding="utf-8")
    return file


def _pcm(pack: Pack) -> str:
    if not pack.trained:
        return "untrained: it weighs uniformly"
    where = "on the base" if pack.spec.pcm.backbone == "base" else "on a backbone of its own"
    return f"LoRA and a weight head {where}, trained by this project"


def _bytes(pack: Pack) -> int:
    spec = pack.spec
    others = (spec.experts.anchor, spec.rewards, spec.pcm.adapter)
    adapters = [*spec.experts.adapters.values(), *(adapter for adapter in others if adapter)]
    folders = [pack.path(adapter.folder) for adapter in adapters]
    return sum(file.stat().st_size for folder in folders for file in folder.iterdir())
