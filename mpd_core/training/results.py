"""Outputs of training: adapters in the engine's format, metrics and curves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from mpd_core.models.adapter_config import CONFIG_FILE
from mpd_core.models.adapters import WEIGHTS_FILE
from mpd_core.rendering import line_chart, rendered
from mpd_core.saving import read_json, replacing_folder

METRICS = "metrics.jsonl"
CURVES = "curves.html"
CHECKPOINTS = "checkpoints"
ADAPTER = "adapter"
HEAD = "head.safetensors"


def write_metrics(folder: Path, title: str, history: list[dict[str, float]]) -> None:
    """Write a run's log as JSON lines, and one chart per quantity."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(entry) + "\n" for entry in history)
    (folder / METRICS).write_text(lines, encoding="utf-8")
    names = sorted({name for entry in history for name in entry} - {"step", "epoch"})
    charts = []
    for name in names:
        curve = [
            (entry["step"], entry[name]) for entry in history if {name, "step"} <= entry.keys()
        ]
        charts += [line_chart(name, {"": curve})] if curve else []
    page = rendered("curves.html", title=title, charts=charts)
    (folder / CURVES).write_text(page, encoding="utf-8")


def save_adapter(model: Any, folder: Path) -> None:
    """The adapter "default" of a PEFT model as a folder with fp16 safetensors, which the engine and
    packs read. Its config is reproducible: no local path of the base, and sorted lists."""
    with replacing_folder(folder) as scratch:
        model.save_pretrained(scratch, selected_adapters=["default"], save_embedding_layers=False)
        tensors = load_file(scratch / WEIGHTS_FILE)
        save_file({name: tensor.half() for name, tensor in tensors.items()}, scratch / WEIGHTS_FILE)
        config = read_json(scratch / CONFIG_FILE)
        config["base_model_name_or_path"] = None
        config["target_modules"] = sorted(config["target_modules"])  # PEFT writes a set
        text = json.dumps(config, indent=1, sort_keys=True) + "\n"
        (scratch / CONFIG_FILE).write_text(text, encoding="utf-8")
        (scratch / "README.md").unlink(missing_ok=True)
