"""A pack of two dimensions over a tiny base, with data and a recipe, small enough to train."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mpd_core.packs import Pack, load_pack
from mpd_core.training.context import TrainingContext
from mpd_core.training.results import METRICS
from tests import tiny

TARGETS = '["q_proj", "v_proj", "down_proj"]'
RECIPE = """
seed = 3
[data]
file = "styles.jsonl"
max_tokens = 128
[lora]
rank = 4
alpha = 8
dropout = 0.0
targets = {targets}
first_layer = 1
[anchor]
epochs = 1
batch = 2
lr = 1e-2
[sft]
epochs = {epochs}
batch = 2
lr = 1e-2
save_steps = 2
[reward]
epochs = {epochs}
batch = 2
lr = 1e-2
[reward.lora]
rank = 2
alpha = 4
targets = {targets}
first_layer = 1
[static]
prompts = 2
[references]
max_new_tokens = 6
[measures]
up0 = "-grade"
[pcm]
warm_start = true
algorithm = "{algorithm}"
iterations = {iterations}
passes = {passes}
batch = 4
lr = 1e-3
head_lr = 5e-2
warmup = 0
[pcm.lora]
rank = 2
alpha = 4
targets = {targets}
first_layer = 1
[pcm.rollouts]
prompts = 4
samples = 4
max_new_tokens = 6
temperature = {temperature}
[pcm.rebel]
eta = 0.2
"""
ANSWERS = """
[pcm.answers]
epochs = 3
batch = 4
lr = 1e-3
head_lr = 5e-2
"""
WORDS = {"up0": "cat", "down0": "mat", "up1": "friend", "down1": "photosynthesis"}
NEW_WORDS = {"up2": "letters", "down2": "quotes"}


def write_styles(folder: Path, rows: int = 12) -> None:
    """Answers whose style is a word a pole: in every pole, neutral, and in every preference."""
    lines = []
    for number in range(rows):
        split = ("train", "train", "valid", "test")[number % 4]
        answers = {name: f"the {word} {number}" for name, word in WORDS.items()}
        answers["neutral"] = f"on {number}"
        for whole in ("AA", "AB", "BA", "BB"):
            first = WORDS["up0" if whole[0] == "A" else "down0"]
            second = WORDS["up1" if whole[1] == "A" else "down1"]
            answers[whole] = f"the {first} and {second} {number}"
        row = {"id": str(number), "split": split, "prompt": f"explain {number}", "answers": answers}
        lines.append(json.dumps(row))
    (folder / "styles.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_training_pack(
    folder: Path,
    base: Path,
    *,
    adapters: bool,
    answers: bool = False,
    decode: str = "",
    change: Mapping[str, str] = {},
    **recipe: object,
) -> Pack:
    """A pack that can be trained; with ``adapters`` its experts are random LoRAs already, with
    ``answers`` its PCM begins with what written answers teach; ``change`` edits its recipe."""
    folder.mkdir(exist_ok=True)
    anchor = adapters and "strength" in decode
    options = {"adapters": adapters, "anchor": anchor, "first_layer": 1, "extra": decode}
    tiny.write_pack(folder, base, dimensions=2, prompt="plain", **options)  # type: ignore[arg-type]
    settings = {"algorithm": "rebel", "iterations": 2, "passes": 2, "epochs": 1, "temperature": 1.0}
    settings |= recipe
    text = RECIPE.format(targets=TARGETS, **settings) + ANSWERS * answers
    for old, new in change.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    (folder / "train.toml").write_text(text, encoding="utf-8")
    write_styles(folder)
    return load_pack(folder)


def training(folder: Path, base: Path, *, adapters: bool = True, **options: Any) -> TrainingContext:
    """Such a pack, opened to be trained."""
    pack = write_training_pack(folder, base, adapters=adapters, **options)
    return TrainingContext.open(pack, folder / "out")


def history(folder: Path) -> list[dict[str, float]]:
    """The log of a training."""
    return [json.loads(line) for line in (folder / METRICS).read_text("utf-8").splitlines()]


def add_dimension(source: Path, folder: Path) -> Path:
    """A copy of a trained pack with a third dimension in its TOML and its data."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("out"))
    toml = folder / "pack.toml"
    text = toml.read_text(encoding="utf-8")
    text = re.sub(r"\[static\]\n(?:.+\n?)*", "", text)
    toml.write_text(text + "\n" + tiny.dimension(2), encoding="utf-8")
    lines = []
    for number, line in enumerate((folder / "styles.jsonl").read_text().splitlines()):
        row = json.loads(line)
        row["answers"] |= {name: f"the {word} {number}" for name, word in NEW_WORDS.items()}
        lines.append(json.dumps(row))
    (folder / "styles.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
