"""Scores of replies by pole: from trained reward models, servers of others, or text measures."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from mpd_core.errors import EngineError, PackError
from mpd_core.models.adapters import load_adapter
from mpd_core.remote.client import Client
from mpd_core.remote.exchange import FailureError
from mpd_core.training.adapters.rewards import load_head, reward_folder
from mpd_core.training.context import TrainingContext
from mpd_core.training.measures import MeasureReward
from mpd_core.training.results import HEAD
from mpd_core.training.teacher_forcing import TeacherForcing

SERVED, TRIES = 64, 3
"""Replies that a server is asked about at once, and how often."""
MOST = sys.float_info.max
REWARD = "reward"
ROWS = 24
"""Texts of one batch."""


class RemoteReward:
    """Asks ``POST url`` with ``{"prompts": [...], "replies": [...]}`` for ``{"scores": [...]}``."""

    def __init__(self, url: str, key_env: str | None = None, timeout_s: float = 60.0) -> None:
        """Prepare a client; nothing is sent yet.

        Raises:
            EngineError: an address that is none, or a key that is not in the environment.
        """

        def failed(_: str, reason: str) -> EngineError:
            return EngineError(f"The reward server {url} {reason}. Check it and resume.")

        self._client = Client(url, failed, timeout_s=timeout_s, retries=TRIES - 1, key_env=key_env)

    def __call__(self, prompts: Sequence[str], replies: Sequence[str]) -> list[float]:
        """One score a reply.

        Raises:
            EngineError: no answer after some tries, or one that is not a finite number a reply.
        """
        scores: list[float] = []
        for start in range(0, len(replies), SERVED):
            part = slice(start, start + SERVED)
            asked = {"prompts": list(prompts[part]), "replies": list(replies[part])}
            read = partial(_scores, count=len(asked["replies"]))
            scores += self._client.post(json.dumps(asked).encode(), read)
        return scores

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


def _scores(body: bytes, count: int) -> list[float]:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise FailureError(f"sent no JSON ({error})", passing=True) from None
    scores = answer.get("scores") if isinstance(answer, dict) else None
    if not isinstance(scores, list) or len(scores) != count:
        raise FailureError(f"must answer with {count} scores", passing=True)
    # Bounded and not only finite: JSON has whole numbers of any length.
    if not all(type(score) in (int, float) and abs(score) <= MOST for score in scores):
        raise FailureError("sent a score that is not finite", passing=True)
    return [float(score) for score in scores]


Reward = Callable[[Sequence[str], Sequence[str]], list[float]]
"""Scores replies to prompts for one pole; higher is more of it, on a scale of its own."""


Asked = tuple[str, str, Sequence[str]]
"""A prompt, a reply to it, and the poles that it is scored for."""


class Scorer(Protocol):
    """Scores replies for several poles at once."""

    def score(self, asked: Sequence[Asked]) -> list[dict[str, float]]:
        """One {pole: score} per reply."""


class Rewards:
    """Trained reward models for most poles, something else for some."""

    def __init__(self, models: Scorer | None, others: Mapping[str, Reward]) -> None:
        """``models`` may be None where every pole has a reward of its own."""
        self._models = models
        self._others = others

    def score(self, asked: Sequence[Asked]) -> list[dict[str, float]]:
        """One {pole: score} per reply."""
        scores: list[dict[str, float]] = [{} for _ in asked]
        if self._models is not None:
            scores = self._models.score(
                [(p, r, [n for n in names if n not in self._others]) for p, r, names in asked]
            )
        for name, reward in self._others.items():
            rows = [row for row, (_, _, names) in enumerate(asked) if name in names]
            found = reward([asked[row][0] for row in rows], [asked[row][1] for row in rows])
            for row, score in zip(rows, found, strict=True):
                scores[row][name] = score
        return scores


class RewardModels:
    """The trained reward models: one pass of the base with their adapter scores every pole."""

    def __init__(self, setup: TrainingContext, folder: Path, length: int = 1024) -> None:
        """Load the adapter with its head from a folder; ``length``: longest text, in tokens.

        Raises:
            PackError: an adapter that cannot be read or does not fit.
        """
        self._setup = setup
        self._length = length
        self._reader = TeacherForcing(
            setup, [load_adapter(REWARD, folder)], texts=ROWS, length=length
        )
        self._weight, self._bias = load_head(folder)
        self._poles = [pole.name for pole in setup.pack.space.poles]
        if self._weight.shape[0] != len(self._poles):
            raise PackError(
                f"rewards: {folder / HEAD} scores {self._weight.shape[0]} poles, and the pack has "
                f"{len(self._poles)}: run train rewards."
            )

    def score(self, asked: Sequence[Asked]) -> list[dict[str, float]]:
        """One {pole: score} per reply, of the poles wanted.

        Replies come without an end-of-turn token, which is added: a reward judges what was said.
        """
        states = self.states([(prompt, reply) for prompt, reply, _ in asked])
        every = (states @ self._weight.T + self._bias).tolist()
        found = [dict(zip(self._poles, row, strict=True)) for row in every]
        return [{p: of[p] for p in poles} for of, (_, _, poles) in zip(found, asked, strict=True)]

    def states(self, replies: Sequence[tuple[str, str]]) -> Tensor:
        """What the head reads: the last hidden state of each prompt with its reply, [N, D], fp32 on
        the CPU; texts of similar length are batched."""
        ids = [self._ids(*pair) for pair in replies]
        found = torch.zeros(len(ids), self._weight.shape[1])
        for batch in self._reader.batches(ids):
            states = self._reader.states([ids[k] for k in batch], [(REWARD,)] * len(batch))
            for k, (row,) in zip(batch, states, strict=True):
                found[k] = row[-1].float().cpu()
        return found

    def _ids(self, prompt: str, reply: str) -> list[int]:
        ids = self._setup.ids(self._setup.prompt(prompt) + reply + self._setup.end_of_turn)
        end = ids[-1:]  # a reply that is too long is cut, not its end
        return ids if len(ids) <= self._length else ids[: self._length - 1] + end


def rewards_of(setup: TrainingContext) -> Rewards:
    """The scorer of all poles that a recipe asks for.

    Raises:
        PackError: a reward model that is missing.
    """
    others: dict[str, Reward] = {}
    for name, spec in setup.recipe.scorers.items():
        served = partial(RemoteReward, spec.url or "", spec.api_key_env)
        others[name] = MeasureReward(spec.measure) if spec.measure else served()
    needed = any(pole.name not in others for pole in setup.pack.space.poles)
    return Rewards(RewardModels(setup, reward_folder(setup)) if needed else None, others)
