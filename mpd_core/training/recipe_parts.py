"""Tables that several stages of a recipe share."""

from __future__ import annotations

from pydantic import Field

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
