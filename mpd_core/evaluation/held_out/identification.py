"""Whether replies show the poles that were chosen: by reward models, and by measures of the text.

The table that the toggles are judged by: for every method, preference and dimension the share of
replies that show the chosen pole rather than its opposite. A mean over dimensions hides a dimension
that was given up for the others; the worst cell does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

import torch

from mpd_core.engine.plan import BASE
from mpd_core.evaluation import Figures
from mpd_core.evaluation.measures import TextJudge
from mpd_core.method.preferences import Dimension, PreferenceSpace
from mpd_core.training.context import TrainingContext
from mpd_core.training.rollouts import Rollout
from mpd_core.training.scoring.reward_models import Scorer
from mpd_core.training.teacher_forcing import TeacherForcing

Replies = Mapping[str, Sequence[Rollout]]
"""By method."""
Shown = Sequence[Mapping[str, str | None]]
"""Of each reply, the pole that it shows in each dimension; None: neither."""
TEXTS = 8


def identify(setup: TrainingContext, models: Scorer, replies: Replies) -> Figures:
    """By method, preference and dimension: ``reward`` and, where there is one, ``measure``."""
    space, judge = setup.pack.space, TextJudge.of(setup.pack)
    table: Figures = {}
    for method, some in replies.items():
        measured = [judge(reply.prompt, reply.text) for reply in some]
        by_reward = shares(space, some, shown_by_rewards(space, models, some))
        by_measure = shares(space, some, measured)
        table[method] = {
            code: {
                name: {"reward": share, **_measure(by_measure.get(code, {}), name)}
                for name, share in row.items()
            }
            for code, row in by_reward.items()
        }
    return table


def _measure(row: Mapping[str, float], dimension: str) -> dict[str, float]:
    return {"measure": row[dimension]} if dimension in row else {}


def shares(space: PreferenceSpace, replies: Sequence[Rollout], shown: Shown) -> Figures:
    """By preference and dimension: how many replies show the chosen pole; neither counts half."""
    table: Figures = {}
    for preference in space:
        own = [s for r, s in zip(replies, shown, strict=True) if r.preference == preference.code]
        chosen = dict(zip(preference.dimensions, preference.poles, strict=True))
        row = {
            dimension.name: fmean(_right(s[dimension.name], pole.name) for s in own)
            for dimension, pole in chosen.items()
            if own and all(dimension.name in s for s in own)
        }
        if row:
            table[preference.code] = row
    return table


def _right(shown: str | None, chosen: str) -> float:
    return 0.5 if shown is None else float(shown == chosen)


def shown_by_rewards(space: PreferenceSpace, models: Scorer, replies: Sequence[Rollout]) -> Shown:
    """The pole of each dimension whose reward model is pleased most."""
    names = [pole.name for pole in space.poles]
    prompts, texts = [r.prompt for r in replies], [r.text for r in replies]
    scores = models.score(prompts, texts, [names] * len(replies))
    return [{d.name: _most(row, d) for d in space.dimensions} for row in scores]


def _most(scores: Mapping[str, float], dimension: Dimension) -> str:
    return max((pole.name for pole in dimension.poles), key=lambda name: scores[name])


@torch.inference_mode()
def likelihood(setup: TrainingContext, replies: Replies) -> dict[str, float]:
    """Mean ln p a token that the bare base gives the replies: how much sense they make to it."""
    length = setup.recipe.data.max_tokens
    reader = TeacherForcing(setup, (), texts=TEXTS, length=length)
    found: dict[str, float] = {}
    for method, some in replies.items():
        asked = [setup.ids(setup.prompt(reply.prompt)) for reply in some]
        texts = [[*a, *r.tokens][:length] for a, r in zip(asked, some, strict=True)]
        total, tokens = 0.0, 0
        for batch in reader.batches(texts):
            states = reader.states([texts[k] for k in batch], [(BASE,)] * len(batch))
            for k, (row,) in zip(batch, states, strict=True):
                own = torch.tensor(texts[k][len(asked[k]) :])
                said = reader.log_probs(row[len(asked[k]) - 1 : -1], BASE).cpu()
                total += float(said.gather(1, own[:, None]).sum())
                tokens += len(own)
        found[method] = total / max(1, tokens)
    return found
