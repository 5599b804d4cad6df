"""A pack's reward models as a judge: not independent, since the PCM was trained on them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from mpd_core.errors import PackError
from mpd_core.evaluation.judging import Answer, Judge, Question, Single
from mpd_core.packs import Pack, file_sha256
from mpd_core.training.adapters.rewards import reward_folder
from mpd_core.training.context import TrainingContext
from mpd_core.training.results import HEAD
from mpd_core.training.scoring.reward_models import RewardModels, Scorer

Text = tuple[str, str]
"""A prompt and a reply."""
TIE = 0.2
"""Scores that differ by less are a tie: odds of 11 to 9 at most."""


class RewardsJudge(Judge):
    """The reply that its pole's reward model scores higher wins."""

    reads_singles = True

    def __init__(self, models: Scorer, version: str, poles: Sequence[str]) -> None:
        """With models that score, the version of their weights, and all poles of the pack."""
        super().__init__("rewards", version)
        self._models, self._poles = models, tuple(poles)
        self._known: dict[Text, Mapping[str, float]] = {}

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
        poles = [pole.name for pole in pack.space.poles]
        return cls(RewardModels(setup, folder), version_of(folder), poles)

    def answers(self, questions: Sequence[Question]) -> Iterator[tuple[Question, Answer]]:
        """In the order asked; a reply that stands in several pairs is read once."""
        scores = self._scores((q.prompt, text) for q in questions for text in (q.first, q.second))
        for question in questions:
            first = scores[question.prompt, question.first][question.pole]
            second = scores[question.prompt, question.second][question.pole]
            gap = first - second
            verdict = 0 if abs(gap) < TIE else 1 if gap > 0 else -1
            yield question, Answer(verdict, f"{first:.3f} : {second:.3f}")

    def singles(self, asked: Sequence[Single]) -> Iterator[tuple[Single, Answer]]:
        """The pole that scores highest; neither where another comes near. Scores are centred."""
        scores = self._scores((single.prompt, single.text) for single in asked)
        for single in asked:
            found = [scores[single.prompt, single.text][pole] for pole in single.poles]
            best, next_best = sorted(found, reverse=True)[:2]
            verdict = found.index(best) + 1 if best - next_best >= TIE else 0
            yield single, Answer(verdict, " : ".join(f"{score:.3f}" for score in found))

    def _scores(self, texts: Iterable[Text]) -> Mapping[Text, Mapping[str, float]]:
        """Scores of (prompt, reply) texts, cached."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        found = self._models.score([(*text, self._poles) for text in new])
        self._known |= zip(new, found, strict=True)
        return self._known


def version_of(folder: Path) -> str:
    """Version of the judge with the reward models in a folder."""
    return f"{file_sha256(folder / HEAD)[:12]} tie {TIE}"
