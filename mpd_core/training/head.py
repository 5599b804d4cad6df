"""The output layer on a CPU, on answer tokens alone.

TRL scores every token, padding and prompt included, and recomputes all logits in the backward
pass; its shorter way needs a GPU's kernels. With a shared trunk that would be most of a step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from trl.trainer.utils import FusedCausalLMOutput

IGNORED = -100


def score_answers_only(model: Any, weights: Mapping[int, float] | None = None) -> None:
    """Let a causal LM that a TRL trainer has prepared score only tokens that have a label.

    The outputs are TRL's, zero where the label is ignored. On a GPU nothing changes unless there
    are weights.

    Args:
        model: inside the trainer.
        weights: of single tokens in the loss; 1 where nothing is said.
    """
    unequal = {token: weight for token, weight in (weights or {}).items() if weight != 1.0}
    if model.device.type != "cpu" and not unequal:
        return
    prepared = model.forward

    def forward(
        *args: Any, fused_lm_head: bool = False, labels: Tensor | None = None, **options: Any
    ) -> Any:
        if not fused_lm_head or labels is None:
            return prepared(*args, fused_lm_head=fused_lm_head, labels=labels, **options)
        for unused in ("num_items_in_batch", "shift_labels"):
            options.pop(unused, None)
        hidden = model.base_model(*args, **options).last_hidden_state[:, :-1]
        return _score(model.lm_head, hidden, labels[:, 1:], unequal)

    model.forward = forward


def _score(
    lm_head: Any, hidden: Tensor, labels: Tensor, weights: Mapping[int, float]
) -> FusedCausalLMOutput:
    mask = labels != IGNORED
    logits: Tensor = lm_head(hidden[mask]).float()
    every = torch.log_softmax(logits, dim=-1)
    said = every.gather(-1, labels[mask][:, None])[:, 0]
    weight = torch.ones_like(said)
    for token, value in weights.items():
        weight[labels[mask] == token] = value
    with torch.no_grad():
        entropy = -(every.exp() * every).sum(-1)
        first = every.argmax(-1) == labels[mask]

    def spread(values: Tensor) -> Tensor:
        return values.new_zeros(mask.shape).masked_scatter(mask, values)

    return FusedCausalLMOutput(
        loss=-(weight * said).sum() / weight.sum(),
        log_probs=spread(said),
        entropy=spread(entropy),
        mean_logits=spread(logits.detach().mean(-1)),
        is_top1=spread(first),
        label_mask=mask,
    )
