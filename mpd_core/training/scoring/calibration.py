"""Reward models that say what readers would: the head fitted to verdicts on replies.

Pairs of written answers teach a reward model which of two shows a pole more, and not the score
above which a reader names it; and a small model's replies are no written answers. So what the
adapter reads in a reply stays, and the linear head is moved to where the sigmoid of a pole's score
is the probability that a reader names it: logistic regression with a ridge around the head that
pairs taught, which stays in the file beside the fitted one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from statistics import fmean

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from mpd_core.errors import PackError
from mpd_core.models.adapters import WEIGHTS_FILE
from mpd_core.packs import file_sha256
from mpd_core.saving import read_json, replacing_folder, write_json
from mpd_core.training.adapters.rewards import PAIRS, load_head, reward_folder
from mpd_core.training.context import TrainingContext
from mpd_core.training.data import Verdict, load_verdicts
from mpd_core.training.results import ADAPTER, HEAD
from mpd_core.training.scoring.reward_models import RewardModels

FITTED = "verdicts.json"
FOLDS, STEPS, HALVINGS = 5, 50, 30


def verdicts_of(setup: TrainingContext) -> tuple[Verdict, ...]:
    """What the recipe names; nothing where it names none.

    Raises:
        PackError: a file that cannot be read, or replies to one prompt only.
    """
    spec = setup.recipe.verdicts
    if spec is None:
        return ()
    found = load_verdicts(setup.pack.path(spec.file), setup.pack.space)
    if len({verdict.prompt for verdict in found}) < 2:
        raise PackError(f"verdicts.file: {spec.file} needs replies to at least two prompts.")
    return found


def calibrate(setup: TrainingContext, tell: Callable[[str], None], *, resume: bool) -> None:
    """Fit the head of the reward models, trained here or the pack's, to the recipe's verdicts.

    The result lies where trained reward models do, with its figures on prompts that were left out,
    before and after. When resuming, a fit to the same verdicts is kept.

    Raises:
        PackError: no reward models, or verdicts that cannot be read.
    """
    spec = setup.recipe.verdicts
    if spec is None:
        return
    source, target = reward_folder(setup), setup.out / "rewards" / ADAPTER
    if not (source / HEAD).is_file():
        raise PackError("rewards are missing: run train rewards first.")
    facts = {
        **spec.model_dump(mode="json"),
        "file_sha256": file_sha256(setup.pack.path(spec.file)),
        "weights_sha256": file_sha256(source / WEIGHTS_FILE),
    }
    record = target / FITTED
    if resume and record.is_file() and read_json(record).items() >= facts.items():
        return
    verdicts = verdicts_of(setup)
    weight, bias = load_head(source, of_pairs=True)
    read = RewardModels(setup, source).states([(v.prompt, v.reply) for v in verdicts])
    states = torch.cat([read, torch.ones(len(read), 1)], dim=1).double()
    head = torch.cat([weight, bias[:, None]], dim=1).double()
    poles = [pole.name for pole in setup.pack.space.poles]
    named = torch.tensor([[float(p in v.shown) for p in poles] for v in verdicts]).double()
    held = _left_out(states, named, head, [v.prompt for v in verdicts], spec.ridge)
    figures = {
        name: _figures(setup, verdicts, scores, named)
        for name, scores in {"before": states @ head.T, "after": held}.items()
    }
    fitted = fit_head(states, named, head, spec.ridge).float()
    tensors = {"weight": fitted[:, :-1].contiguous(), "bias": fitted[:, -1].contiguous()}
    tensors |= {PAIRS + "weight": weight, PAIRS + "bias": bias}
    with replacing_folder(target) as scratch:
        shutil.copytree(source, scratch)
        (scratch / HEAD).unlink()
        save_file(tensors, scratch / HEAD)
        write_json(scratch / FITTED, {**facts, "replies": len(verdicts), "figures": figures})
    for name, found in figures.items():
        tell(f"reward models and readers, on prompts left out, {name}: {json.dumps(found)}")


def fit_head(states: Tensor, named: Tensor, head: Tensor, ridge: float) -> Tensor:
    """Logistic regression of each column of ``named`` on states, around a head that there is.

    Newton's method with steps halved until they help: far from the data a full step overshoots. A
    pole that all or none of the readers named stays as it is: its bias would have no bound.

    Args:
        states: what the head reads, a column of ones last, [N, D + 1], fp64.
        named: 1 where a reader named the pole, else 0, [N, poles].
        head: weight and, last, bias, [poles, D + 1].
        ridge: on the square of a weight's change, in the state's standard deviations; the bias is
            free.

    Returns:
        The head, [poles, D + 1].
    """
    scale = ridge * states.var(dim=0, correction=0)
    some = (named.max(dim=0).values > named.min(dim=0).values).tolist()
    return torch.stack(
        [
            _logistic(states, named[:, k], row, scale) if some[k] else row
            for k, row in enumerate(head)
        ]
    )


def _logistic(states: Tensor, named: Tensor, start: Tensor, ridge: Tensor) -> Tensor:
    def loss(at: Tensor) -> Tensor:
        entropy = F.binary_cross_entropy_with_logits(states @ at, named, reduction="sum")
        return entropy + (ridge * (at - start).square()).sum() / 2

    weights, value = start, loss(start)
    for _ in range(STEPS):
        shares = torch.sigmoid(states @ weights)
        slope = states.T @ (shares - named) + ridge * (weights - start)
        curve = states.T @ (states * (shares * (1 - shares))[:, None])
        step = torch.linalg.solve(curve + torch.diag(ridge.clamp_min(1e-9)), slope)
        sizes = (0.5**k for k in range(HALVINGS))
        better = next((s for s in sizes if loss(weights - s * step) < value), None)
        if better is None:
            break
        weights = weights - better * step
        value = loss(weights)
    return weights


def _left_out(
    states: Tensor, named: Tensor, head: Tensor, prompts: Sequence[str], ridge: float
) -> Tensor:
    """Scores [N, poles] of each reply by a head that saw no reply to its prompt."""
    parts = {prompt: k % FOLDS for k, prompt in enumerate(dict.fromkeys(prompts))}
    part = torch.tensor([parts[prompt] for prompt in prompts])
    scores = states @ head.T
    for fold in set(parts.values()):
        seen, held = part != fold, part == fold
        if seen.any():
            fitted = fit_head(states[seen], named[seen], head, ridge)
            scores[held] = states[held] @ fitted.T
    return scores


def _figures(
    setup: TrainingContext, verdicts: Sequence[Verdict], scores: Tensor, named: Tensor
) -> dict[str, dict[str, float]]:
    """By dimension, of the poles that replies were generated for.

    ``agrees``: how often a score's sign is what the reader saw. ``ranks``, where both were seen:
    how often a reply that shows its pole has a higher score than one that does not.
    """
    space = setup.pack.space
    found: dict[str, dict[str, float]] = {}
    for dimension in space.dimensions:
        wanted = [space.parse(v.preference).poles for v in verdicts]
        rows = [
            (k, space.poles.index(pole))
            for k, poles in enumerate(wanted)
            for pole in poles
            if pole in dimension.poles
        ]
        if not rows:
            continue
        at = torch.tensor(rows).T
        own, seen = scores[at[0], at[1]], named[at[0], at[1]] > 0
        found[dimension.name] = {"agrees": round(fmean(((own > 0) == seen).tolist()), 4)}
        if seen.any() and not seen.all():
            apart = own[seen][:, None] - own[~seen]  # ties count half (AUC)
            above = ((apart > 0).double() + (apart == 0).double() / 2).mean()
            found[dimension.name]["ranks"] = round(float(above), 4)
    return found
