"""Settings of a training, as ``train.toml`` beside a pack's ``pack.toml`` holds them."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from mpd_core.errors import PackError
from mpd_core.method.reward import Aggregate
from mpd_core.packs import Pack, Table, complaints
from mpd_core.training.measures import MEASURES

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover
    import tomli as tomllib

FILE = "train.toml"


class DataSpec(Table):
    """Where answers in every style are; see ``data.load_styles`` for the format."""

    file: Path
    experts: Path | None = None
    """Answers that the anchor and the experts learn from, and the PCM's supervised start, in the
    same format; absent: ``file``."""
    max_tokens: int = Field(512, ge=16, le=8192)
    """Longest prompt plus answer; longer ones are cut."""


class LoraSpec(Table):
    """Adapters on the base's layers from ``first_layer`` upwards; below lies the shared trunk."""

    rank: int = Field(16, ge=1, le=512)
    alpha: float = Field(32.0, gt=0)
    dropout: float = Field(0.05, ge=0, lt=1)
    targets: tuple[str, ...] = Field(min_length=1)
    first_layer: int = Field(0, ge=0)


class StageSpec(Table):
    """One run of an optimiser (AdamW, linear warm-up, cosine to zero)."""

    epochs: float = Field(1.0, gt=0, le=100)
    batch: int = Field(8, ge=1, le=1024)
    lr: float = Field(gt=0, lt=1)
    warmup: float = Field(0.05, ge=0, lt=1)
    save_steps: int = Field(60, ge=1)


class RewardSpec(StageSpec):
    """The reward models: one adapter with a score a pole, pairwise loss."""

    lora: LoraSpec
    centre: float = Field(0.0, ge=0)
    """Weight of (r_chosen + r_rejected)^2: keeps rewards around zero (Eisenstein et al., 2023)."""
    centred_on: int = Field(64, ge=0)
    """Training prompts over whose answers to all preferences scores are given the mean 0."""


class ScorerSpec(Table):
    """What stands in for a pole's reward model: a measure, or a server."""

    measure: str | None = None
    """Of ``measures.py``, with ``-`` for how little there is of it: ``-grade``."""
    url: str | None = None
    """See ``scoring/remote_reward.py`` for what it is asked."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the server's key."""

    @model_validator(mode="after")
    def _is_one_thing(self) -> ScorerSpec:
        if (self.measure is None) == (self.url is None):
            raise ValueError("give a measure or a url")
        return self


class ReferenceSpec(Table):
    """The baseline whose replies rewards are measured against (Eq. 2)."""

    method: str = "uniform"
    max_new_tokens: int = Field(128, ge=1, le=4096)


class RolloutSpec(Table):
    """How replies are sampled to learn from."""

    prompts: int = Field(16, ge=1)
    """Prompts an iteration; every preference is run on each."""
    samples: int = Field(2, ge=1)
    """Replies per prompt and preference; all their pairs are learned from."""
    max_new_tokens: int = Field(96, ge=1, le=4096)
    temperature: float = Field(1.0, gt=0, le=1)
    """After mixing. What is learned at 1 need not help greedy replies: at 1 they ramble."""
    unfinished: float = Field(0.0, ge=0)
    """Taken off the reward of a reply that did not end by itself."""


class REBELSpec(Table):
    """Gao et al., 2024; see ``method.rebel``."""

    eta: float = Field(0.5, gt=0)


class PPOSpec(Table):
    """Schulman et al., 2017, with the settings published for TL;DR summarisation; the arguments of
    ``method.ppo.ppo_loss``."""

    clip: float = Field(0.2, gt=0)
    value_weight: float = Field(0.1, ge=0)
    gamma: float = Field(1.0, gt=0, le=1)
    lam: float = Field(0.95, gt=0, le=1)
    kl: float = Field(0.05, ge=0)


class ReportSpec(Table):
    """What held-out figures are computed on."""

    prompts: int = Field(1_000_000, ge=1)
    """Of the test split, for the comparison of methods, which runs every preference on each."""


class StaticSpec(Table):
    """Search for the best constant weights."""

    prompts: int = Field(8, ge=2)
    """Of the validation split; half of them for the whole grid, all for its best points."""
    parts: int = Field(10, ge=1, le=100)
    """Weights are multiples of one over this."""
    least: float = Field(0.0, ge=0, lt=1)
    """Smallest weight that is tried; above 0, no expert is ever silent."""
    finalists: int = Field(3, ge=1)
    """Points a preference that are tried on all prompts."""


class AnswersSpec(StageSpec):
    """A supervised start of the PCM, from written answers to whole preferences."""

    prompts: int = Field(1_000_000, ge=1)
    """Of each split, at most: reading an answer through its experts costs as much as learning."""

    head_lr: float = Field(1e-3, gt=0, lt=1)
    """Of the head's weight."""
    constant_lr: float = Field(2e-2, gt=0, lt=1)
    """Of what each expert counts on average, which is thrown away afterwards."""


class PCMTrainSpec(Table):
    """Training of the Preference Control Model."""

    warm_start: bool = False
    """Begin with the pack's PCM instead of a zero head; poles that are new to it begin at zero."""
    imitate_static: bool = False
    """Begin at the best static weights instead of uniform ones."""
    answers: AnswersSpec | None = None
    """Begin with weights that move as written answers teach; absent: with weights that do not."""
    algorithm: Literal["rebel", "ppo"] = "rebel"
    reward: Literal["bradley_terry", "direct"] = "bradley_terry"
    aggregate: Aggregate = "mean"
    """How Bradley-Terry rewards by pole become one, see ``method.reward``; the static search
    goes by it, too."""
    lora: LoraSpec
    iterations: int = Field(20, ge=0)
    """Of sampling and learning; 0: only what the supervised start teaches."""
    passes: int = Field(2, ge=1)
    """Times that an iteration's replies are learned from."""
    batch: int = Field(16, ge=1)
    lr: float = Field(4e-5, gt=0, lt=1)
    head_lr: float = Field(2e-4, gt=0, lt=1)
    """Of the head's weight, and of the critic."""
    score_lr: float = Field(1e-2, gt=0, lt=1)
    """Of the head's bias and pair scores."""
    warmup: int = Field(10, ge=0)
    """Updates over which the rates rise."""
    keep: float = Field(1.0, gt=0, le=1)
    """Share of the trained head's scores that ``install`` writes: what few replies taught may go
    too far, and half-way to equal weights can be better than either; chosen on validation."""
    guard: float = Field(3.0, gt=1)
    """An update whose loss exceeds this many times that of doing nothing stops the iteration."""
    rollouts: RolloutSpec = RolloutSpec()
    rebel: REBELSpec = REBELSpec()
    ppo: PPOSpec = PPOSpec()


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
        """Of the resolved settings: defaults included, comments not."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


def load_recipe(pack: Pack) -> Recipe:
    """Read the recipe that lies beside a pack.

    Raises:
        PackError: names the file and the key.
    """
    path = pack.folder / FILE
    try:
        recipe = Recipe.model_validate(tomllib.loads(path.read_text(encoding="utf-8-sig")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise PackError(f"{path}: cannot be read: {error}") from error
    except ValidationError as error:
        raise PackError(f"{path}: " + "; ".join(complaints(error))) from error
    _check_names(path, pack, recipe)
    return recipe


def _check_names(path: Path, pack: Pack, recipe: Recipe) -> None:
    """What tables are named after must be there: a typo would be a setting that does nothing."""
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
