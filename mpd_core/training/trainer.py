"""How TRL's trainers are run here: settings, checkpoints, metrics and curves."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from mpd_core.charts import page
from mpd_core.models.adapters import CONFIG_FILE, WEIGHTS_FILE
from mpd_core.models.machine import trains_in_bf16
from mpd_core.training.data import Split
from mpd_core.training.recipe import StageSpec

Row = dict[str, Any]
METRICS = "metrics.jsonl"
CURVES = "curves.html"
CHECKPOINTS = "checkpoints"
ADAPTER = "adapter"
HEAD = "head.safetensors"


_CHECKPOINTING = next(  # its name since transformers 5.24, and before
    name
    for name in ("activation_checkpointing", "gradient_checkpointing")
    if name in TrainingArguments.__dataclass_fields__
)


def common(folder: Path, stage: StageSpec, seed: int) -> dict[str, Any]:
    """Arguments that every trainer takes."""
    cuda = torch.cuda.is_available()
    return {
        "output_dir": str(folder / CHECKPOINTS),
        "num_train_epochs": 1,  # epochs are laid out in the data: see arranged
        "per_device_train_batch_size": stage.batch,
        "per_device_eval_batch_size": 2 * stage.batch,
        "gradient_accumulation_steps": stage.accumulate,
        "learning_rate": stage.lr,
        "lr_scheduler_type": "cosine",
        "warmup_steps": stage.warmup,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "seed": seed,
        "data_seed": seed,
        "bf16": trains_in_bf16(),
        "use_cpu": not cuda,
        _CHECKPOINTING: False,
        "train_sampling_strategy": "sequential",
        "eval_strategy": "steps",
        "eval_steps": stage.save_steps,
        "logging_steps": 10,
        "logging_first_step": True,
        "save_strategy": "steps",
        "save_steps": stage.save_steps,
        "save_total_limit": 1,
        "report_to": [],
        "dataloader_pin_memory": cuda,
    }


def arranged(rows: Sequence[Row], stage: StageSpec, seed: int) -> list[Row]:
    """All epochs' examples in the order in which they are learned from.

    Batches hold texts of like length, so that little is padding. The order depends on nothing but
    the seed: a resumed run sees what an unbroken one does.

    Args:
        rows: each with its ``length``, which is taken out.
        stage: batch size and epochs; a fraction of an epoch is its first part.
        seed: of the shuffling.
    """
    order: list[Row] = []
    draw = random.Random(seed)
    while len(order) < round(stage.epochs * len(rows)):
        shuffled = draw.sample(rows, len(rows))
        window = 8 * stage.batch
        windows = (shuffled[k : k + window] for k in range(0, len(shuffled), window))
        alike = [row for some in windows for row in sorted(some, key=itemgetter("length"))]
        batches = [alike[k : k + stage.batch] for k in range(0, len(alike), stage.batch)]
        draw.shuffle(batches)
        order += [row for batch in batches for row in batch]
    kept = order[: round(stage.epochs * len(rows))]
    return [{key: value for key, value in row.items() if key != "length"} for row in kept]


def datasets(make: Callable[[Split], list[Row]], stage: StageSpec, seed: int) -> dict[str, Any]:
    """A trainer's data: the training split arranged, the validation split once."""
    once = stage.model_copy(update={"epochs": 1.0})
    return {
        "train_dataset": Dataset.from_list(arranged(make("train"), stage, seed)),
        "eval_dataset": Dataset.from_list(arranged(make("valid"), once, seed)),
    }


class MetricsFile(TrainerCallback):  # type: ignore[misc]
    """Keeps the log as JSONL and as a picture; a resumed run's are those of an unbroken one."""

    def __init__(self, folder: Path, title: str) -> None:
        self._folder = folder
        self._title = title

    def on_log(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        write_metrics(self._folder, self._title, [_numbers(entry) for entry in state.log_history])


def _numbers(entry: dict[str, Any]) -> dict[str, float]:
    numbers = {}
    for key, value in entry.items():
        try:
            numbers[key] = float(value)
        except (TypeError, ValueError):
            continue
    return numbers


def write_metrics(folder: Path, title: str, history: list[dict[str, float]]) -> None:
    """All entries of a run, one JSON object a line, and one chart a quantity."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(entry) + "\n" for entry in history)
    (folder / METRICS).write_text(lines, encoding="utf-8")
    names = sorted({name for entry in history for name in entry} - {"step", "epoch"})
    curves = {
        name: [
            (entry["step"], entry[name]) for entry in history if name in entry and "step" in entry
        ]
        for name in names
    }
    (folder / CURVES).write_text(page(title, "Each by optimiser step.", curves), encoding="utf-8")


def fit(trainer: Any, folder: Path, *, resume: bool) -> None:
    """Train to the end, from the last checkpoint if there is one and it is wanted."""
    checkpoints = folder / CHECKPOINTS
    if not resume:
        shutil.rmtree(checkpoints, ignore_errors=True)
    last = get_last_checkpoint(str(checkpoints)) if checkpoints.is_dir() else None
    trainer.train(resume_from_checkpoint=last)


def save_adapter(model: Any, folder: Path, *, skip: tuple[str, ...] = ()) -> None:
    """A PEFT folder with fp16 safetensors: what the engine reads and the pack holds.

    Args:
        model: of PEFT; its adapter "default" is saved.
        skip: modules saved whole that are kept elsewhere.
        folder: written whole: a crash leaves the old one or none.
    """
    scratch = folder.with_name(folder.name + ".part")
    shutil.rmtree(scratch, ignore_errors=True)
    model.save_pretrained(scratch, selected_adapters=["default"], save_embedding_layers=False)
    tensors = load_file(scratch / WEIGHTS_FILE)
    lora = {
        name: tensor.half()
        for name, tensor in tensors.items()
        if not any(f".{module}." in name for module in skip)
    }
    save_file(lora, scratch / WEIGHTS_FILE)
    _portable(scratch / CONFIG_FILE)
    (scratch / "README.md").unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    scratch.rename(folder)


def _portable(file: Path) -> None:
    """Without paths of this machine, and the same from run to run; the pack names the base."""
    config = json.loads(file.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = None
    config["target_modules"] = sorted(config["target_modules"])  # PEFT writes a set, in any order
    if config["modules_to_save"]:  # kept elsewhere: what is left is plain LoRA
        config["modules_to_save"] = config["task_type"] = None
    file.write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf-8")
