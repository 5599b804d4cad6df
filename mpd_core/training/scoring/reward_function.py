"""Rewards of whole replies: Bradley-Terry against a baseline's replies, or raw (Eq. 2)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import torch

from mpd_core.engine import Engine
from mpd_core.method.preferences import PreferenceSpace
from mpd_core.method.reward import Aggregate, aggregate, bradley_terry
from mpd_core.request import Sampling
from mpd_core.training import rollouts
from mpd_core.training.adapters.experts import experts_key
from mpd_core.training.context import TrainingContext
from mpd_core.training.measures import repeated
from mpd_core.training.pcm_recipe import PCMTrainSpec
from mpd_core.training.rollouts import Rollout
from mpd_core.training.scoring.reward_models import Scorer, rewards_of

Scores = dict[str, float]
"""Of one reply, by pole."""


@dataclass(frozen=True)
class ScoredReply:
    """A reply with one score for each chosen pole."""

    reply: Rollout
    scores: Scores
    """Raw, by pole."""
    bt_scores: Scores
    """Bradley-Terry against the reference, by pole: 0.5 is as good as the reference."""
    kind: Aggregate = "mean"
    """How the rewards by pole are aggregated."""

    @property
    def reward(self) -> float:
        """Aggregated Bradley-Terry reward of the reply."""
        return float(aggregate(torch.tensor(list(self.bt_scores.values())), self.kind))

    @property
    def direct(self) -> float:
        """Mean of the raw scores: the paper's ablation."""
        return fmean(self.scores.values())


def reward_of(entry: ScoredReply, spec: PCMTrainSpec) -> float:
    """What the PCM learns from and the static search goes by: with what is taken off for replies
    that did not end, or that say the same again and again."""
    worth = entry.direct if spec.reward == "direct" else entry.reward
    unfinished = 0.0 if entry.reply.finished else spec.rollouts.unfinished
    return worth - unfinished - spec.rollouts.repeated * repeated(entry.reply.text)


class References:
    """The baseline's replies by prompt and preference, cached in a file and generated on demand."""

    def __init__(self, file: Path, method: str, sampling: Sampling) -> None:
        self._file = file
        self._method = method
        self.sampling = sampling
        known = rollouts.load(file) if file.is_file() else []
        self._replies = {self._key(reply.prompt, reply.preference): reply for reply in known}

    def ensure(self, engine: Engine, prompts: Sequence[str], codes: Sequence[str]) -> None:
        """Generate the missing references of these prompts and preferences."""
        asks = rollouts.every(prompts, codes, 1, 0, self._method)
        missing = {self._key(ask.prompt, ask.preference): replace(ask, seed=0) for ask in asks}
        missing = {key: ask for key, ask in missing.items() if key not in self._replies}
        if not missing:
            return
        found = rollouts.run(engine, list(missing.values()), self.sampling)
        self._replies.update(zip(missing, found, strict=True))
        rollouts.save(self._file, list(self._replies.values()))

    def text(self, prompt: str, code: str) -> str:
        """The reply to a prompt under a preference, which ``ensure`` has been asked for."""
        return self._replies[self._key(prompt, code)].text

    def _key(self, prompt: str, code: str) -> tuple[str, str]:
        """Cache key; ``vanilla`` ignores the preference, so one reply serves all of them."""
        return prompt, "" if self._method == "vanilla" else code


class RewardFunction:
    """What PCM training maximises: scores of reward models against those of references."""

    def __init__(
        self,
        space: PreferenceSpace,
        models: Scorer,
        references: References,
        kind: Aggregate = "mean",
    ) -> None:
        self._space = space
        self._kind = kind
        self.models = models
        self.references = references
        self._known: dict[tuple[str, str], Scores] = {}

    def prepare(self, engine: Engine, prompts: Sequence[str], codes: Sequence[str]) -> None:
        """Generate the references that are missing."""
        self.references.ensure(engine, prompts, codes)

    def score(self, replies: Sequence[Rollout]) -> list[ScoredReply]:
        """Score replies; the references must exist."""
        keys = {(reply.prompt, reply.preference) for reply in replies} - set(self._known)
        ordered = sorted(keys)
        theirs = [(prompt, self.references.text(prompt, code), code) for prompt, code in ordered]
        self._known.update(zip(ordered, self._scores(theirs), strict=True))
        scores = self._scores([(reply.prompt, reply.text, reply.preference) for reply in replies])
        found = []
        for reply, own in zip(replies, scores, strict=True):
            known = self._known[reply.prompt, reply.preference]
            reference = torch.tensor([known[name] for name in own])
            against = bradley_terry(torch.tensor(list(own.values())), reference).tolist()
            bt_scores = dict(zip(own, against, strict=True))
            found.append(ScoredReply(reply, own, bt_scores, self._kind))
        return found

    def _scores(self, texts: Sequence[tuple[str, str, str]]) -> list[Scores]:
        """Of prompts, replies and the codes whose poles are wanted."""
        poles = {code: [pole.name for pole in self._space.parse(code).poles] for *_, code in texts}
        return self.models.score([(prompt, reply, poles[code]) for prompt, reply, code in texts])


def references_of(setup: TrainingContext) -> References:
    """The baseline's replies, by the experts as they are now and under the pack's setting."""
    spec = setup.recipe.references
    sampling = setup.pack.spec.decode.sampling(max_new_tokens=spec.max_new_tokens)
    made_by = repr(sampling)
    if spec.method != "vanilla":  # the bare base is merged with nobody
        made_by += repr(setup.pack.merging(next(iter(setup.pack.space))))
    setting = hashlib.sha256(made_by.encode()).hexdigest()[:6]
    name = f"{spec.method}-{experts_key(setup)}-{setting}.jsonl"
    return References(setup.out / "references" / name, spec.method, sampling)


def reward_function(setup: TrainingContext) -> RewardFunction:
    """The trained reward models, or what the recipe names instead, against its references."""
    references, kind = references_of(setup), setup.recipe.pcm.aggregate
    return RewardFunction(setup.pack.space, rewards_of(setup), references, kind)
