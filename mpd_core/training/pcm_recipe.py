"""Settings of the PCM's training: the table ``[pcm]`` of a recipe."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mpd_core.method.reward import Aggregate
from mpd_core.packs import Table


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
    repeated: float = Field(0.0, ge=0)
    """Taken off in proportion to the share of runs of four words that were there before."""


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


class TokenCreditSpec(Table):
    """Ours; see ``method.token_credit``."""

    eta: float = Field(5.0, gt=0)
    """Advantages are given a standard deviation of 1: one of 1 asks for a log-ratio of 1/eta."""
    discount: float = Field(0.9, ge=0, le=1)
    """Of the credit for tokens further on, each; 0: a token answers for itself alone."""
    rest: float = Field(1.0, ge=0, le=1)
    """Share of what token scores leave unexplained of a reply's reward that all of its tokens get.
    With 1 and a discount of 1 the gradient is unbiased; less of either is less noise."""


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
    algorithm: Literal["rebel", "ppo", "best_of", "token_credit"] = "rebel"
    """The paper's two; then ours: the likelihood of the best of the replies to each prompt and
    preference (expert iteration), and REBEL's regression with an advantage for each token."""
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
    token_credit: TokenCreditSpec = TokenCreditSpec()

    @model_validator(mode="after")
    def _has_replies_to_compare(self) -> PCMTrainSpec:
        if self.iterations and self.algorithm != "ppo" and self.rollouts.samples < 2:
            raise ValueError(
                f"algorithm '{self.algorithm}' compares replies: set rollouts.samples to at least 2"
            )
        return self
