"""Where PCM training begins if the recipe says so: at the best constant weights."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from mpd_core.training.batches import Collator
from mpd_core.training.losses import imitation_loss
from mpd_core.training.policy import Policy
from mpd_core.training.recipe import ImitationSpec
from mpd_core.training.rollouts import Reply

EXPLORED = 0.15
"""Share of uniform in the weights that are imitated: of an expert that never speaks nothing could
be learned afterwards."""
BATCH = 16

Targets = Mapping[str, Sequence[float]]


def imitate(
    policy: Policy,
    collate: Collator,
    replies: Sequence[Reply],
    targets: Targets,
    spec: ImitationSpec,
    accelerator: Accelerator,
) -> float:
    """Learn constant weights by preference from any replies, with an optimiser of its own.

    Args:
        policy: is changed.
        collate: for its batches.
        replies: to several prompts, with every preference that has a target.
        targets: weights of the preference's experts, by code.
        spec: passes, tokens of a reply that are read, and rates.
        accelerator: carries devices.

    Returns:
        Mean cross-entropy of the last pass.
    """
    optimiser = torch.optim.AdamW(policy.parameter_groups(spec.lr, spec.head_lr), weight_decay=0.0)
    cut = [_first(reply, spec.tokens) for reply in replies]
    order = random.Random(0)
    losses: list[float] = []
    for _ in range(spec.passes):
        shuffled = order.sample(cut, len(cut))
        losses = []
        for start in tqdm(range(0, len(cut), BATCH), desc="imitation", leave=False):
            some = shuffled[start : start + BATCH]
            batch = collate(some).to(policy.device)
            weights, _ = policy(batch)
            aim = nn.utils.rnn.pad_sequence(
                [explored(targets[reply.preference]) for reply in some], batch_first=True
            )
            loss = imitation_loss(weights, aim.to(weights), batch.mask)
            optimiser.zero_grad()
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(policy.parameters(), 1.0)
            optimiser.step()
            losses.append(float(loss.detach()))
    return sum(losses) / len(losses)


def explored(weights: Sequence[float]) -> Tensor:
    """Weights with some of uniform in them, [E]."""
    return (1 - EXPLORED) * torch.tensor(weights) + EXPLORED / len(weights)


def _first(reply: Reply, count: int) -> Reply:
    parts = ("tokens", "log_probs", "weights", "disagreement")
    return replace(reply, **{name: getattr(reply, name)[:count] for name in parts})
