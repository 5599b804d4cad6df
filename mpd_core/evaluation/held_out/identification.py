"""Whether replies show the poles that were chosen: by reward models, and by measures of the text.

The table that the toggles are judged by: for every method, preference and dimension the share of
replies that show the chosen pole rather than its opposite. A mean over dimensions hides a dimension
that was given up for the others; the worst cell does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from mpd_core.engine.plan import BASE
from mpd_core.evaluation import Figures
from mpd_core.evaluation.identified import identify as by_scorer
from mpd_core.evaluation.measures import Scorer, TextJudge
from mpd_core.evaluation.store import Row
from mpd_core.method.preferences import PreferenceSpace
from mpd_core.training.context import TrainingContext
from mpd_core.training.rollouts import Rollout
from mpd_core.training.scoring.reward_models import Scorer as RewardScorer
from mpd_core.training.teacher_forcing import TeacherForcing

Replies = Mapping[str, Sequence[Rollout]]
"""By method."""
TEXTS = 8


def identify(setup: TrainingContext, models: RewardScorer, replies: Replies) -> Figures:
    """By method, preference and dimension: ``reward`` and, where there is one, ``measure``."""
    space = setup.pack.space
    rows = [
        {"prompt": r.prompt, "code": r.preference, "method": method, "text": r.text}
        for method, some in replies.items()
        for r in some
    ]
    judge: Scorer = TextJudge.of(setup.pack)
    return by_scorer(space, rows, {"reward": by_rewards(space, models, rows), "measure": judge})


def by_rewards(space: PreferenceSpace, models: RewardScorer, rows: Sequence[Row]) -> Scorer:
    """A scorer of these replies that names, in each dimension, the pole with the largest reward."""
    dimensions, names = space.dimensions, [pole.name for pole in space.poles]
    texts = list(dict.fromkeys((row["prompt"], row["text"]) for row in rows))
    scores = models.score([p for p, _ in texts], [t for _, t in texts], [names] * len(texts))
    shown = {
        text: {d.name: max((p.name for p in d.poles), key=by_pole.__getitem__) for d in dimensions}
        for text, by_pole in zip(texts, scores, strict=True)
    }
    return lambda prompt, text: shown[prompt, text]


@torch.inference_mode()
def likelihood(setup: TrainingContext, replies: Replies) -> dict[str, float]:
    """Mean ln p a token that the bare base gives the replies: how much sense they make to it."""
    length = setup.recipe.data.max_tokens
    base = TeacherForcing(setup, (), texts=TEXTS, length=length)
    found: dict[str, float] = {}
    for method, some in replies.items():
        prompts = [setup.ids(setup.prompt(reply.prompt)) for reply in some]
        texts = [r.tokens[: length - len(p)] for r, p in zip(some, prompts, strict=True)]
        total = 0.0
        for k, (read,) in base.read(prompts, texts, [(BASE,)] * len(texts), title="likelihood"):
            total += float(read.gather(1, torch.tensor(texts[k])[:, None]).sum())
        found[method] = total / max(1, sum(map(len, texts)))
    return found
