"""The Preference Control Model as a policy: weights of all tokens in one causal forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mpd_core.errors import PackError
from mpd_core.method.merging import fading_strength, implausible, scores, tempered_log_probs
from mpd_core.method.weight_head import FORMERLY, PAIR_BIAS, WeightHead
from mpd_core.training.context import TrainingContext
from mpd_core.training.packed import states
from mpd_core.training.pcm.batches import UNLIKELY, Batch
from mpd_core.training.pcm_recipe import PCMTrainSpec
from mpd_core.training.results import ADAPTER, HEAD, save_adapter

POLES = "poles"
"""Metadata key of a head file: names of the poles of its rows."""


class PolicyOutput(NamedTuple):
    """What a policy says of N replies of at most T tokens; of one reply without the first axis."""

    log_probs: Tensor
    """ln pi of each token, 0 outside the mask, [N, T]."""
    weights: Tensor
    """alpha, [N, T, E]."""
    values: Tensor
    """The critic's, [N, T]."""


class Policy(nn.Module):
    """Backbone with adapter, weight head, and a value head for PPO.

    Attributes:
        mixed_precision: products of the backbone in bf16; weights and sums stay fp32.
    """

    def __init__(self, setup: TrainingContext) -> None:
        """A fresh one, whose zero head weighs uniformly, or the pack's own."""
        super().__init__()
        pcm, warm = setup.pack.spec.pcm, setup.recipe.pcm.warm_start
        packed = setup.pack.path(pcm.adapter.folder) if warm and pcm.adapter else None
        # Without dropout: ratios to the sampling policy would be noise from the first update on.
        self.body = setup.pcm_body(setup.recipe.pcm.lora, packed).eval()
        width = self.body.config.hidden_size
        device = next(self.body.parameters()).device
        self.mixed_precision = setup.mixed
        self._temperature = setup.recipe.pcm.rollouts.temperature
        self._poles = [pole.name for pole in setup.pack.space.poles]
        self.head = WeightHead(width, len(self._poles))
        if warm and pcm.head:
            take_known_poles(self.head, self._poles, setup.pack.path(pcm.head.file))
        self.head.to(device)
        self.value = nn.Linear(width, 1, device=device)
        nn.init.zeros_(self.value.weight)
        nn.init.zeros_(self.value.bias)

    @property
    def device(self) -> torch.device:
        """Of backbone and heads."""
        return self.head.linear.weight.device

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Weights [N, T, E] and values [N, T]."""
        states = self.token_states(batch)
        return self.head.expert_weights(states, batch.poles), self.value(states)[..., 0]

    def token_states(self, batch: Batch) -> Tensor:
        """Last hidden states that predict the weights of each token, [N, T, D]."""
        found = states(self.body, batch.ids, batch.layout, mixed=self.mixed_precision)
        return found.float()[batch.at]

    def log_probs(self, batch: Batch) -> PolicyOutput:
        """ln pi of each token, and the weights and values behind it."""
        weights, values = self(batch)
        return PolicyOutput(reply_log_probs(batch, weights, self._temperature), weights, values)

    def parameter_groups(self, spec: PCMTrainSpec) -> list[dict[str, Any]]:
        """Parameter groups for an optimiser: adapter, head weights, and biases.

        A step of AdamW moves a weight by its rate. Over hundreds of hidden dimensions that adds up
        to much, in a single score it does not: hence three rates.
        """
        adapter = [p for p in self.body.parameters() if p.requires_grad]
        heads = [self.head.linear.weight, *self.value.parameters()]
        scores = [self.head.linear.bias, self.head.pair_bias]
        return [
            {"params": adapter, "lr": spec.lr},
            {"params": heads, "lr": spec.head_lr},
            {"params": scores, "lr": spec.score_lr},
        ]

    def save(self, folder: Path) -> None:
        """Write what the engine loads: the adapter's folder and the head's safetensors."""
        folder.mkdir(parents=True, exist_ok=True)
        save_adapter(self.body, folder / ADAPTER)
        head = {name: t.detach().cpu().contiguous() for name, t in self.head.tensors().items()}
        save_file(head, folder / HEAD, metadata={POLES: ",".join(self._poles)})


def reply_log_probs(batch: Batch, weights: Tensor, temperature: float) -> Tensor:
    """ln pi of each token under given weights, [N, T]; see ``likely_log_probs``."""
    return likely_log_probs(batch, weights, temperature)[..., 0]


def likely_log_probs(batch: Batch, weights: Tensor, temperature: float) -> Tensor:
    """ln pi of each token, then of the others recorded there, [N, T, 1 + C], 0 outside the mask.

    Of replies that were sampled at this temperature, under weights alpha [N, T, E].
    """
    merging, anchors = batch.merging, batch.log_probs.shape[-1] - weights.shape[-1]
    # The token that was sampled, then the others, in the axes of Eq. 1: [N, T, A + E, 1 + C].
    told = torch.cat([batch.log_probs[:, :, None], batch.others], dim=2).transpose(2, 3)
    prior, log_probs = told[:, :, :anchors], told[:, :, anchors:]
    alpha = weights.clamp_min(1e-30)
    indices = torch.arange(told.shape[1], device=told.device)
    strength = fading_strength(merging.strength, merging.settled, merging.fade, indices)
    found = scores(merging.space, log_probs, alpha, prior if anchors else None, strength)
    if anchors and merging.plausibility > 0:
        nobody = implausible(log_probs, prior, merging.plausibility)
        nobody[..., 0] = False  # it was said
        found = found.masked_fill(nobody, UNLIKELY)
    return tempered_log_probs(found, temperature).masked_fill(~batch.mask[..., None], 0.0)


@torch.no_grad()
def take_known_poles(head: WeightHead, poles: Sequence[str], file: Path) -> None:
    """Copy the rows of poles that a saved head knows by name; the others stay zero.

    Raises:
        PackError: the file does not say whose its rows are.
    """
    with safe_open(file, "pt") as saved:
        known = ((saved.metadata() or {}).get(POLES) or "").split(",")
        weight, bias = saved.get_tensor("weight"), saved.get_tensor("bias")
        bias_of_pairs = torch.zeros(len(known), len(known))
        for name in {PAIR_BIAS, FORMERLY} & set(saved.keys()):
            bias_of_pairs = saved.get_tensor(name)
    if len(known) != len(weight):
        raise PackError(f"pcm.head: {file} does not name its poles; set pcm.warm_start = false.")
    theirs = [row for row, name in enumerate(known) if name in poles]
    own = torch.tensor([poles.index(known[row]) for row in theirs], dtype=torch.long)
    head.linear.weight[own] = weight[theirs]
    head.linear.bias[own] = bias[theirs]
    head.pair_bias[own[:, None], own] = bias_of_pairs[theirs][:, theirs]
