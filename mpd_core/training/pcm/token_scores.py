"""Credit of single tokens of sampled replies for the chosen poles; see ``method.token_credit``.

A token speaks for a pole by ln p_pole - ln p_opposite (``pole_shifts``): one is recorded while
replies are sampled, and the opposite poles' experts, which take no part in a reply, read it
afterwards. What that counts for is measured: the reward model's score of the whole reply is
regressed onto the sum over its tokens, and multiplied with how much the reward follows that score.
The slope is one for all poles: of a few groups of replies that a pole has, its own is mostly noise,
and a pole whose slope happens to be negative would get no credit at all, though it may be the one
that is missing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from mpd_core.method.preferences import PreferenceSpace
from mpd_core.method.reward import aggregate
from mpd_core.method.token_credit import centred, later_scores, leave_one_out, slope
from mpd_core.training.adapters.experts import load_experts
from mpd_core.training.context import TrainingContext
from mpd_core.training.data import opposites
from mpd_core.training.pcm.batches import Collator, others_table, padded_tables
from mpd_core.training.pcm.policy import likely_log_probs
from mpd_core.training.rollouts import Rollout
from mpd_core.training.scoring.reward_function import ScoredReply
from mpd_core.training.teacher_forcing import TeacherForcing
from mpd_core.training.trunk import padded

TEXTS = 8
NOTHING = -1
"""Padding value for token ids."""


@dataclass(frozen=True)
class Credit:
    """Of one reply, or of several with an axis before the others."""

    scores: Tensor
    """a of ``token_credit_loss``, [T, 1 + C]."""
    later: Tensor
    """F, [T]."""


def token_credit(
    setup: TrainingContext, scored: Sequence[ScoredReply], rewards: Tensor
) -> tuple[list[Credit], dict[str, float]]:
    """Advantages of all tokens, normalised to a standard deviation of 1.

    Groups of ``rollouts.samples`` replies lie together, with the rewards [N] that are learned from.

    Returns:
        By reply, and the share of the rewards' variance within groups that token scores explain.

    Raises:
        PackError: experts that are no adapters.
    """
    spec = setup.recipe.pcm
    replies = [entry.reply for entry in scored]
    shifts = pole_shifts(setup, replies)
    counts = token_weights(setup, scored, [shift[:, 0] for shift in shifts])
    earned = [
        shift @ torch.tensor([counts[reply.preference, name] for name in names])
        for reply, shift in zip(replies, shifts, strict=True)
        for names in [_names(setup.pack.space, reply)]
    ]
    group, collate = spec.rollouts.samples, Collator(setup)
    rest = rewards - torch.stack([row[:, 0].sum() for row in earned])
    chance = spec.token_credit.rest * leave_one_out(rest.view(-1, group)).flatten()
    credits = []
    for reply, row, left in zip(replies, earned, chance, strict=True):
        alpha = torch.tensor(reply.weights)[None]  # as the engine recorded them
        old = likely_log_probs(collate([reply]), alpha, spec.rollouts.temperature)[0]
        later = later_scores(row[:, 0], spec.token_credit.discount) + left
        credits.append(Credit(centred(row, old), later))
    known = torch.cat([credit.scores[:, 0] + credit.later for credit in credits])
    scale = float(known.std().clamp_min(1e-8))
    inner = [leave_one_out(values.view(-1, group)).square().sum() for values in (rest, rewards)]
    return [Credit(c.scores / scale, c.later / scale) for c in credits], {
        "explained": 1.0 - float(inner[0] / inner[1].clamp_min(1e-12)),
        "advantage": scale,
    }


def _names(space: PreferenceSpace, reply: Rollout) -> list[str]:
    return [pole.name for pole in space.parse(reply.preference).poles]


def token_weights(
    setup: TrainingContext, scored: Sequence[ScoredReply], shifts: Sequence[Tensor]
) -> dict[tuple[str, str], float]:
    """What a unit of a token's shift towards a pole counts for in the reward, by preference code
    and pole; ``shifts`` are those of each reply's tokens, one column a chosen pole, [T, E]."""
    space, group = setup.pack.space, setup.recipe.pcm.rollouts.samples
    direct = setup.recipe.pcm.reward == "direct"
    told: dict[str, list[tuple[float, float]]] = {}  # by pole, whose groups lie together
    by_code: dict[str, list[ScoredReply]] = {}
    for entry, shift in zip(scored, shifts, strict=True):
        by_code.setdefault(entry.reply.preference, []).append(entry)
        for name, total in zip(_names(space, entry.reply), shift.sum(dim=0), strict=True):
            told.setdefault(name, []).append((float(total), entry.scores[name]))
    pairs = torch.tensor([pair for rows in told.values() for pair in rows]).view(-1, group, 2)
    common = slope(pairs[..., 0], pairs[..., 1])
    return {
        (code, name): common * each
        for code, some in by_code.items()
        for name, each in _sensitivity(some, direct=direct).items()
    }


def _sensitivity(some: Sequence[ScoredReply], *, direct: bool) -> Mapping[str, float]:
    """d reward / d raw score by pole, at the mean over some replies to one preference."""
    names = list(some[0].scores)
    if direct:
        return dict.fromkeys(names, 1 / len(names))
    mean = [fmean(entry.bt_scores[name] for entry in some) for name in names]
    at = torch.tensor(mean, requires_grad=True)
    (gradient,) = torch.autograd.grad(aggregate(at, some[0].kind), at)
    at = at.detach()
    return dict(zip(names, (gradient * at * (1 - at)).tolist(), strict=True))


def stacked(credits: Sequence[Credit], device: torch.device) -> Credit:
    """Stack the credits of several replies, padded with zeros."""
    later = padded(credit.later for credit in credits)
    scores = padded_tables([credit.scores for credit in credits])
    return Credit(scores.to(device), later.to(device))


def pole_shifts(setup: TrainingContext, replies: Sequence[Rollout]) -> list[Tensor]:
    """ln p_pole - ln p_opposite of each token and of the others recorded there, less the mean over
    the tokens of all replies to the preference.

    Returns:
        By reply, as the engine sampled them, [T, 1 + C, E]; 0 where C is padding.

    Raises:
        PackError: experts that are no adapters.
    """
    space = setup.pack.space
    ids = [_likely_ids(reply) for reply in replies]
    opposite = _opposites(setup, replies, ids)
    shifts = []
    for reply, theirs in zip(replies, opposite, strict=True):
        experts = len(space.parse(reply.preference).poles)
        own = torch.tensor(reply.log_probs)[:, None, -experts:]
        others = others_table([reply], len(reply.tokens))[0, :, :, -experts:]
        shifts.append(torch.cat([own, others], dim=1) - theirs)
    for code in {reply.preference for reply in replies}:
        rows = [k for k, reply in enumerate(replies) if reply.preference == code]
        mean = torch.cat([shifts[k][:, 0] for k in rows]).mean(dim=0)
        for k in rows:
            shifts[k] = (shifts[k] - mean) * (ids[k] != NOTHING)[..., None]
    return shifts


def _likely_ids(reply: Rollout) -> Tensor:
    """Ids of the sampled token and the alternatives, [T, 1 + C]; padded with ``NOTHING``."""
    others = reply.other_ids or ((),) * len(reply.tokens)
    most = max(map(len, others))
    rows = zip(reply.tokens, others, strict=True)
    return torch.tensor([[t, *some] + [NOTHING] * (most - len(some)) for t, some in rows])


def _opposites(
    setup: TrainingContext, replies: Sequence[Rollout], ids: Sequence[Tensor]
) -> list[Tensor]:
    """ln p of the same tokens by the opposite poles' experts, [T, 1 + C, E] for each reply."""
    space, prompts = setup.pack.space, [setup.ids(setup.prompt(r.prompt)) for r in replies]
    chosen = [space.parse(reply.preference).poles for reply in replies]
    others = [[opposites(space, pole) for pole in poles] for poles in chosen]
    names = [[pole.name for some in each for pole in some] for each in others]
    length = max(len(p) + len(r.tokens) for p, r in zip(prompts, replies, strict=True))
    reader = TeacherForcing(setup, load_experts(setup), texts=TEXTS, length=length)
    found: dict[int, Tensor] = {}
    tokens = [reply.tokens for reply in replies]
    for k, rows in reader.read(prompts, tokens, names, title="opposite poles"):
        said = iter([row.gather(1, ids[k].clamp_min(0)) for row in rows])
        # The opposite of a pole is the mean probability under the others of its dimension.
        each = [torch.stack([next(said) for _ in some]) for some in others[k]]
        mixed = [some.logsumexp(dim=0) - math.log(len(some)) for some in each]
        found[k] = torch.stack(mixed, dim=-1)
    return [found[k] for k in range(len(replies))]
