"""Supervised warm start of the PCM: fit the gate to written answers by maximum likelihood.

Eq. 1 is a mixture of experts whose gate is the PCM, and a gate can be fitted by maximum likelihood
(Jacobs et al., 1991): the written answers to whole preferences become likely where, at every token,
the expert that expects it is listened to. Rewards of whole replies say little about single tokens;
this says something about each. How much each expert counts on average it says less well than
rewards do (figures: training/README.md): a constant for each preference and expert takes that up,
which is thrown away, and constants that rewards have chosen take its place (``imitate_static``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import get_cosine_schedule_with_warmup

from mpd_core.method.preferences import PreferenceSpace
from mpd_core.method.weight_head import WeightHead, softmax_over
from mpd_core.training.adapters.fitting import averaged, in_order
from mpd_core.training.context import TrainingContext
from mpd_core.training.pcm.answers import written
from mpd_core.training.pcm.batches import Batch, Collator
from mpd_core.training.pcm.policy import Policy, reply_log_probs
from mpd_core.training.pcm_recipe import AnswersSpec
from mpd_core.training.results import write_metrics
from mpd_core.training.rollouts import Rollout

CONSTANT_STEPS = 100
EXPLORED = 0.15
"""Share of uniform in the weights that are imitated: of an expert that never speaks nothing could
be learned afterwards."""
DECAY, STEPS = 1e-4, 200


class SupervisedGate(nn.Module):
    """A policy with an additional learned constant per preference and expert."""

    def __init__(self, setup: TrainingContext, policy: Policy) -> None:
        super().__init__()
        self.policy = policy
        self._codes = setup.pack.space.codes
        experts = max(len(preference.poles) for preference in setup.pack.space)
        self.constants = nn.Parameter(torch.zeros(len(self._codes), experts, device=policy.device))

    def forward(self, batch: Batch, replies: Sequence[Rollout]) -> tuple[Tensor, Tensor, Tensor]:
        """Scores before constants are added [N, T, poles], ln pi [N, T] and alpha [N, T, E]."""
        linear = self.policy.head.linear
        scores = nn.functional.linear(self.policy.token_states(batch), linear.weight)
        poles = batch.poles[:, None, :].expand(-1, scores.shape[1], -1)
        own = scores.gather(2, poles.clamp_min(0))
        constants = self.constants[[self._codes.index(reply.preference) for reply in replies]]
        alpha = softmax_over(own + constants[:, None, : own.shape[2]], poles >= 0)
        return scores, reply_log_probs(batch, alpha, 1.0), alpha


def fit_gate_to_answers(
    setup: TrainingContext, policy: Policy, spec: AnswersSpec, folder: Path
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Fit the policy's adapter and its head's weight to the training split's written answers.

    The policy is a fresh one, and experts have been trained; the log goes to ``folder``.

    Returns:
        Figures on the validation split (nats a token), and by preference the scores that the head
        now gives to the tokens of its answers, [T, poles], for constants to be added to.

    Raises:
        PackError: there are no such answers, or experts that are not adapters.
    """
    train, held = written(setup, "train", spec.prompts), written(setup, "valid", spec.prompts)
    gate, collate = SupervisedGate(setup, policy), Collator(setup)
    losses = _fit(gate, collate, in_order(train, spec, setup.recipe.seed), spec)
    log = averaged([{"step": k + 1.0, "loss": loss} for k, loss in enumerate(losses)])
    figures, scores = _held_out(gate, collate, held, spec.batch)
    write_metrics(folder, "PCM: written answers", [*log, {"step": float(len(losses)), **figures}])
    return figures, scores


def _fit(
    gate: SupervisedGate, collate: Collator, batches: Sequence[Sequence[Rollout]], spec: AnswersSpec
) -> list[float]:
    """Train for all epochs; returns the loss of each update."""
    adapter = [p for p in gate.policy.body.parameters() if p.requires_grad]
    weight = gate.policy.head.linear.weight
    groups = [
        {"params": adapter, "lr": spec.lr},
        {"params": [weight], "lr": spec.head_lr},
        {"params": [gate.constants], "lr": spec.constant_lr},
    ]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.0)
    trained = [*adapter, weight, gate.constants]
    warmup = int(spec.warmup * len(batches))
    schedule = get_cosine_schedule_with_warmup(optimiser, warmup, len(batches))
    losses: list[float] = []
    for replies in tqdm(batches, desc="written answers", leave=False):
        batch = collate(replies).to(gate.policy.device)
        _, said, _ = gate(batch, replies)
        loss = -said[batch.mask].mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        schedule.step()
        losses.append(float(loss.detach()))
    return losses


def _held_out(
    gate: SupervisedGate, collate: Collator, replies: Sequence[Rollout], size: int
) -> tuple[dict[str, float], dict[str, Tensor]]:
    ordered = sorted(replies, key=lambda reply: len(reply.tokens))
    scores: dict[str, list[Tensor]] = {}
    said, alphas = [], []
    for start in range(0, len(ordered), size):
        some = ordered[start : start + size]
        batch = collate(some).to(gate.policy.device)
        with torch.no_grad():
            found, log_probs, alpha = gate(batch, some)
        said.append(log_probs[batch.mask])
        alphas.append(alpha[batch.mask])
        for row, reply in enumerate(some):
            scores.setdefault(reply.preference, []).append(found[row, : len(reply.tokens)])
    figures = {
        "held_loss": -float(torch.cat(said).mean()),
        **constant_losses(collate, replies),
        "weights_std": fmean(float(a.std(dim=0).mean()) for a in alphas),
    }
    return figures, {code: torch.cat(rows) for code, rows in scores.items()}


def constant_losses(collate: Collator, replies: Sequence[Rollout]) -> dict[str, float]:
    """What weights that do not move reach on the same answers: uniform ones, and the best there
    are for each preference, fitted to these very answers."""
    uniform, best, tokens = 0.0, 0.0, 0
    for code in sorted({reply.preference for reply in replies}):
        batch = collate([reply for reply in replies if reply.preference == code])
        free = torch.zeros(batch.poles.shape[1], requires_grad=True)
        every = torch.ones_like(free, dtype=torch.bool)
        optimiser = torch.optim.Adam([free], lr=0.1)
        losses = []
        for _ in range(CONSTANT_STEPS):
            alpha = softmax_over(free, every).expand(*batch.mask.shape, -1)
            loss = -reply_log_probs(batch, alpha, 1.0).sum()
            losses.append(float(loss.detach()))
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        uniform, best = uniform + losses[0], best + min(losses)
        tokens += int(batch.mask.sum())
    return {"held_loss_uniform": uniform / tokens, "held_loss_constant": best / tokens}


def fit_mean_weights(
    head: WeightHead,
    space: PreferenceSpace,
    targets: Mapping[str, Sequence[float]],
    token_scores: Mapping[str, Tensor] | None = None,
) -> float:
    """Fit a head's bias and pair scores to constant weights; no model is run for it.

    Args:
        head: a fresh one, whose weight is zero and which says the same whatever the backbone reads;
            or one whose scores are given.
        space: of the codes.
        targets: by code, weights of the preference's experts.
        token_scores: by code, what the head's weight alone says of some tokens, [T, poles]: its
            weights will be the wanted ones on average over these.

    Returns:
        Mean distance (total variation) of the head's weights from what they should be; not zero
        where weights depend on three poles at once.
    """
    chosen = torch.zeros(len(targets), len(space.poles), dtype=torch.bool)
    wanted = torch.zeros(len(targets), len(space.poles))
    for row, (code, weights) in enumerate(targets.items()):
        places = [space.poles.index(pole) for pole in space.parse(code).poles]
        chosen[row, places] = True
        wanted[row, places] = smoothed(weights)
    chosen, wanted = chosen.to(head.pair_bias.device), wanted.to(head.pair_bias.device)
    silent = head.pair_bias.new_zeros(1, len(space.poles))
    scores = [(token_scores or {}).get(code, silent) for code in targets]
    fitted = [head.pair_bias, head.linear.bias]
    optimiser = torch.optim.LBFGS(fitted, max_iter=STEPS, line_search_fn="strong_wolfe")

    def said() -> Tensor:
        own = zip(scores, chosen, strict=True)
        return torch.stack([head.weigh(s + head.linear.bias, c).mean(dim=0) for s, c in own])

    def closure() -> Tensor:
        optimiser.zero_grad()
        log = said().clamp_min(1e-30).log()
        size = sum(parameter.square().sum() for parameter in fitted)
        loss: Tensor = -(wanted * log).sum(dim=-1).mean() + DECAY * size
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        return float((said() - wanted).abs().sum(dim=-1).mean() / 2)


def smoothed(weights: Sequence[float]) -> Tensor:
    """Weights mixed with uniform ones, [E]."""
    return (1 - EXPLORED) * torch.tensor(weights) + EXPLORED / len(weights)
