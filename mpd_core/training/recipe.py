"""Settings of a training, as ``train.toml`` beside a pack's ``pack.toml`` holds them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from mpd_core.errors import PackError
from mpd_core.packs import Pack, Table, read_table
from mpd_core.training.measures import MEASURES
from mpd_core.training.pcm_recipe import LoraSpec, PCMTrainSpec, StageSpec

FILE = "train.toml"


class DataSpec(Table):
    """Where answers in every style are; see ``data.load_styles`` for the format."""

    file: Path
    experts: Path | None = None
    """Answers that the anchor and the experts learn from, and the PCM's supervised start, in the
    same format; absent: ``file``. Reward models learn from these beside ``file``."""
    max_tokens: int = Field(512, ge=16, le=8192)
    """Longest prompt plus answer; longer ones are cut."""


class RewardSpec(StageSpec):
    """The reward models: one adapter with a score a pole, pairwise loss."""

    lora: LoraSpec
    centre: float = Field(0.0, ge=0)
    """Weight of (r_chosen + r_rejected)^2: keeps rewards around zero (Eisenstein et al., 2023)."""
    centred_on: int = Field(64, ge=0)
    """Rows of the training split over whose answers to all preferences scores get the mean 0."""


class VerdictSpec(Table):
    """What blind readers saw in replies, for reward models to say the same."""

    file: Path
    """See ``data.load_verdicts`` for the format."""
    ridge: float = Field(100.0, gt=0)
    """Penalty on moving the reward models' head away from what pairs taught it; see
    ``calibration.fit_head``."""


class ScorerSpec(Table):
    """A scorer that replaces a pole's reward model: a text measure, or a server."""

    measure: str | None = None
    """Of ``measures.py``, with ``-`` for how little there is of it: ``-grade``."""
    url: str | None = None
    """See ``RemoteReward`` for what it is asked."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the server's key."""

    @model_validator(mode="after")
    def _is_one_thing(self) -> ScorerSpec:
        if (self.measure is None) == (self.url is None):
            raise ValueError("give a measure or a url")
        return self


class ReferenceSpec(Table):
    """The baseline whose replies rewards are measured against (Eq. 2)."""

    method: Literal["vanilla", "prompting", "uniform", "soup"] = "uniform"
    """The bare base on the instruction alone, the base with the preference in its prompt, equal
    weights, or the soup: none that changes while the PCM is trained."""
    max_new_tokens: int = Field(128, ge=1, le=4096)


class ReportSpec(Table):
    """Settings of the held-out evaluation."""

    prompts: int = Field(1_000_000, ge=1)
    """Of the test split, for the comparison of methods, which runs every preference on each."""


class StaticSpec(Table):
    """Search for the best constant weights."""

    design: Literal["grid", "surface"] = "grid"
    """``grid``: try every point of the grid. ``surface``: try a few points around equal weights on
    all prompts, and take the grid's highest point on a smooth surface through their rewards."""
    prompts: int = Field(8, ge=2)
    """Of the validation split; half of them for the whole grid, all for its best points."""
    parts: int = Field(10, ge=1, le=100)
    """Weights are multiples of one over this."""
    least: float = Field(0.0, ge=0, lt=1)
    """Smallest weight that is tried; above 0, no expert is ever silent."""
    finalists: int = Field(3, ge=1)
    """Points a preference that are tried on all prompts."""


class Recipe(Table):
    """The whole of ``train.toml``."""

    seed: int = Field(7, ge=0, lt=2**31)
    data: DataSpec
    lora: LoraSpec
    anchor: StageSpec | None = None
    """What experts go on from: an adapter fine-tuned on the answers to all preferences. Absent:
    they begin at the base."""
    sft: StageSpec
    """Fine-tuning of each pole's expert. Batches are counted in prompts, with all their answers."""
    reward: RewardSpec
    verdicts: VerdictSpec | None = None
    """Where there is such a table, the reward models' head is fitted to it after training."""
    scorers: dict[str, ScorerSpec] = Field(default_factory=dict)
    """By pole, what scores replies instead of a trained reward model."""
    references: ReferenceSpec = ReferenceSpec()
    static: StaticSpec = StaticSpec()
    report: ReportSpec = ReportSpec()
    pcm: PCMTrainSpec
    measures: dict[str, str] = Field(default_factory=dict)
    """By pole, a measure that grows with it and that no model was trained on: ``-grade``."""

    @property
    def sha256(self) -> str:
        """SHA-256 of the resolved settings, defaults included."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


def load_recipe(pack: Pack) -> Recipe:
    """Read the recipe that lies beside a pack.

    Raises:
        PackError: names the file and the key.
    """
    path = pack.folder / FILE
    recipe = read_table(path, Recipe)
    # A misspelt name would be silently ignored.
    poles = [pole.name for pole in pack.space.poles]
    for table in ("scorers", "measures"):
        for name in getattr(recipe, table):
            if name not in poles:
                raise PackError(f"{path}: {table}.{name}: no such pole: use {', '.join(poles)}.")
    scorers = {f"scorers.{pole}.measure": s.measure for pole, s in recipe.scorers.items()}
    named = {f"measures.{pole}": measure for pole, measure in recipe.measures.items()} | scorers
    for key, measure in named.items():
        if measure is not None and measure.removeprefix("-") not in MEASURES:
            known = ", ".join(MEASURES)
            raise PackError(f"{path}: {key}: no measure '{measure}': use {known}, or - before one.")
    return recipe
