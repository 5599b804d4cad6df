"""A pack's reward models as judge: not independent, since its PCM learned to please them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from mpd_core.errors import PackError
from mpd_core.evaluation.judging import Answer, Question
from mpd_core.evaluation.singles import Single
from mpd_core.packs import Pack, file_sha256
from mpd_core.training.adapters.rewards import reward_folder
from mpd_core.training.context import TrainingContext
from mpd_core.training.results import HEAD
from mpd_core.training.scoring.reward_models import RewardModels, Scorer

NAME = "rewards"
TIE = 0.2
"""Scores that differ by less are a tie: odds of 11 to 9 at most."""


class RewardsJudge:
    """The reply that its pole's reward model scores higher wins."""

    name = NAME

    def __init__(self, models: Scorer, version: str) -> None:
        self.version = version
        self._models = models

    @classmethod
    def of(cls, pack: Pack) -> RewardsJudge:
        """Load a pack's reward models.

        Raises:
            PackError: it has none, or they cannot be read.
        """
        setup = TrainingContext.open(pack)
        folder = reward_folder(setup)
        if not (folder / HEAD).is_file():
            raise PackError(f"The pack '{pack.spec.name}' has no reward models: run train rewards.")
        version = f"{_version(folder)} tie {TIE}"
        return cls(RewardModels(setup, folder), version)

    def knows(self, dimension: str) -> bool:
        """Every pole of the pack has a score."""
        del dimension
        return True

    def answers(self, questions: Sequence[Question]) -> Iterator[tuple[Question, Answer]]:
        """Each text is scored once, for every pole that is asked of it."""
        scores = self._scores(
            ((question.prompt, reply), question.pole)
            for question in questions
            for reply in (question.first, question.second)
        )
        for question in questions:
            first, second = (
                scores[question.prompt, reply][question.pole]
                for reply in (question.first, question.second)
            )
            gap = first - second
            verdict = 0 if abs(gap) < TIE else 1 if gap > 0 else -1
            yield question, Answer(verdict, f"{first:.3f} : {second:.3f}")

    def singles(self, asked: Sequence[Single]) -> Iterator[tuple[Single, Answer]]:
        """The pole that scores highest; neither where another comes near. Scores are centred."""
        scores = self._scores(
            ((single.prompt, single.text), pole) for single in asked for pole in single.poles
        )
        for single in asked:
            found = [scores[single.prompt, single.text][pole] for pole in single.poles]
            best, next_best = sorted(found, reverse=True)[:2]
            verdict = found.index(best) + 1 if best - next_best >= TIE else 0
            yield single, Answer(verdict, " : ".join(f"{score:.3f}" for score in found))

    def _scores(
        self, wanted: Iterable[tuple[tuple[str, str], str]]
    ) -> dict[tuple[str, str], dict[str, float]]:
        """By prompt and reply, scores of the poles that are wanted of it."""
        poles: dict[tuple[str, str], set[str]] = {}
        for text, pole in wanted:
            poles.setdefault(text, set()).add(pole)
        texts = list(poles)
        found = self._models.score(
            [prompt for prompt, _ in texts],
            [reply for _, reply in texts],
            [sorted(poles[text]) for text in texts],
        )
        return dict(zip(texts, found, strict=True))


def _version(folder: Path) -> str:
    return file_sha256(folder / HEAD)[:12]
