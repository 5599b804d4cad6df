"""A pack's reward models as judge: not independent, since its PCM learned to please them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from mpd_core.errors import PackError
from mpd_core.evaluation.judging import Answer, Question
from mpd_core.packs import Pack, file_sha256
from mpd_core.training.adapters.rewards import reward_folder
from mpd_core.training.context import Setup
from mpd_core.training.results import HEAD
from mpd_core.training.scoring.reward_models import RewardModels, Scorer

NAME = "rewards"
TIE = 0.2
"""Scores that differ by less are a tie: odds of 11 to 9 at most."""


class RewardsJudge:
    """The reply that its pole's reward model scores higher wins."""

    name = NAME

    def __init__(self, models: Scorer, version: str, poles: Sequence[str]) -> None:
        self.version = version
        self._models, self._poles = models, frozenset(poles)

    @classmethod
    def of(cls, pack: Pack) -> RewardsJudge:
        """Load a pack's reward models.

        Raises:
            PackError: it has none, or they cannot be read.
        """
        setup = Setup.open(pack)
        folder = reward_folder(setup)
        if not (folder / HEAD).is_file():
            raise PackError(f"The pack '{pack.spec.name}' has no reward models: run train rewards.")
        version = f"{_version(folder)} tie {TIE}"
        return cls(RewardModels(setup, folder), version, [pole.name for pole in pack.space.poles])

    def knows(self, dimension: str) -> bool:
        """Every pole of the pack has a score."""
        del dimension
        return True

    def answers(self, questions: Sequence[Question]) -> Iterator[tuple[Question, Answer]]:
        """Each text is scored once, for every pole that is asked of it."""
        wanted: dict[tuple[str, str], set[str]] = {}
        for question in questions:
            for reply in (question.first, question.second):
                wanted.setdefault((question.prompt, reply), set()).add(question.pole)
        texts = list(wanted)
        found = self._models.score(
            [prompt for prompt, _ in texts],
            [reply for _, reply in texts],
            [sorted(wanted[text]) for text in texts],
        )
        scores = dict(zip(texts, found, strict=True))
        for question in questions:
            first, second = (
                scores[question.prompt, reply][question.pole]
                for reply in (question.first, question.second)
            )
            gap = first - second
            verdict = 0 if abs(gap) < TIE else 1 if gap > 0 else -1
            yield question, Answer(verdict, f"{first:.3f} : {second:.3f}")


def _version(folder: Path) -> str:
    return file_sha256(folder / HEAD)[:12]
