"""Log-ratios ln p_pole - ln p_opposite of the tokens of sampled replies, for each chosen pole.

The first is recorded while replies are sampled; the opposite poles' experts, which take no part in
a reply, read it afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mpd_core.method.preferences import PreferenceSpace
from mpd_core.models.adapters import load_adapter
from mpd_core.training.adapters.experts import expert_folder
from mpd_core.training.context import TrainingContext
from mpd_core.training.data import opposites
from mpd_core.training.pcm.batches import others_table
from mpd_core.training.rollouts import Rollout
from mpd_core.training.teacher_forcing import TeacherForcing

TEXTS = 8
NOTHING = -1
"""Padding value for token ids."""


def pole_shifts(setup: TrainingContext, replies: Sequence[Rollout]) -> list[Tensor]:
    """ln p_pole - ln p_opposite of each token and of the others recorded there, less the mean over
    the tokens of all replies to the preference.

    Args:
        setup: with trained experts.
        replies: as the engine sampled them.

    Returns:
        By reply, [T, 1 + C, E]; 0 where C is padding.

    Raises:
        PackError: experts that are no adapters.
    """
    space = setup.pack.space
    ids = [_likely_ids(reply) for reply in replies]
    opposite = _opposites(setup, replies, ids)
    shifts = [_recorded(space, r) - theirs for r, theirs in zip(replies, opposite, strict=True)]
    for code in {reply.preference for reply in replies}:
        rows = [k for k, reply in enumerate(replies) if reply.preference == code]
        mean = torch.cat([shifts[k][:, 0] for k in rows]).mean(dim=0)
        for k in rows:
            shifts[k] = (shifts[k] - mean) * (ids[k] != NOTHING)[..., None]
    return shifts


def _recorded(space: PreferenceSpace, reply: Rollout) -> Tensor:
    """ln p_i of sampled token and alternatives by the chosen poles' experts, [T, 1 + C, E]."""
    experts = len(space.parse(reply.preference).poles)
    said = torch.tensor(reply.log_probs)[:, None, -experts:]
    return torch.cat([said, others_table([reply], len(reply.tokens))[0, :, :, -experts:]], dim=1)


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
    adapters = [load_adapter(pole.name, expert_folder(setup, pole)) for pole in space.poles]
    length = max(len(p) + len(r.tokens) for p, r in zip(prompts, replies, strict=True))
    reader = TeacherForcing(setup, adapters, texts=TEXTS, length=length)
    found: dict[int, Tensor] = {}
    tokens = [reply.tokens for reply in replies]
    for k, rows in reader.read(prompts, tokens, names, title="opposite poles"):
        wanted = ids[k].clamp_min(0)
        said = [row.gather(1, wanted) for row in rows]
        found[k] = _mixed(said, [len(some) for some in others[k]])
    return [found[k] for k in range(len(replies))]


def _mixed(said: Sequence[Tensor], counts: Sequence[int]) -> Tensor:
    """ln of the mean probability under so many experts each, [T, 1 + C, E]."""
    parts, rest = [], list(said)
    for count in counts:
        some, rest = rest[:count], rest[count:]
        parts.append(torch.stack(some).logsumexp(dim=0) - math.log(count))
    return torch.stack(parts, dim=-1)
