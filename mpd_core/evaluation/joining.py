"""One adapter made of several in PEFT's own model: TIES, DARE, and Arrow's router."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from peft import ArrowConfig, LoraConfig

from mpd_core.evaluation.jobs import DARE, DENSITY, ROUTED, TEMPERATURE, TIES

SEED = 0
"""Of what DARE drops, and of Arrow's power iteration."""
MERGED, ROUTER = "merged", "arrow_router"


def join(model: Any, method: str, names: Sequence[str]) -> None:
    """Activate one adapter that merges or routes between the given ones.

    Raises:
        ValueError, TypeError, KeyError: what PEFT says of adapters that it cannot join.
    """
    if method in (TIES, DARE):
        kind, weight = ("ties", 1.0) if method == TIES else ("dare_linear", 1.0 / len(names))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            weights = [weight] * len(names)
            model.add_weighted_adapter(names, weights, MERGED, kind, density=DENSITY)
        model.set_adapter(MERGED)
        return
    config = ArrowConfig(
        top_k=min(ROUTED, len(names)), router_temperature=TEMPERATURE, rng_seed=SEED
    )
    config.task_adapter_names, config.gks_adapter_names = list(names), []
    # By full names, unlike PEFT's create_arrow_model: experts may leave lower layers alone.
    targets = _targets(model, names)
    rank = model.peft_config[names[0]].r
    model.add_adapter(ROUTER, LoraConfig(arrow_config=config, target_modules=targets, r=rank))
    model.set_adapter(ROUTER)


def _targets(model: Any, names: Sequence[str]) -> list[str]:
    """Full names of the modules that all of these adapters change.

    Raises:
        ValueError: they change different ones, or in different ranks.
    """
    shapes: list[dict[str, tuple[int, ...]]] = [{} for _ in names]
    for full, module in model.base_model.model.named_modules():
        for found, name in zip(shapes, names, strict=True):
            if name in getattr(module, "lora_A", {}):
                found[full] = tuple(module.lora_A[name].weight.shape)
    if any(found != shapes[0] for found in shapes):
        raise ValueError("their ranks or targets differ")
    return sorted(shapes[0])
