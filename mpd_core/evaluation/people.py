"""Results of people's votes: win rates with intervals, and inter-rater agreement."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mpd_core.evaluation.agreement import alpha
from mpd_core.evaluation.statistics import Tally, over_prompts, overall
from mpd_core.evaluation.votes import Vote

ALL = "all"


@dataclass(frozen=True)
class Meeting:
    """Two methods under one dimension, or under all by the paper's rule."""

    first: str
    second: str
    dimension: str
    tally: Tally
    interval: tuple[float, float] | None
    """Of the win rate by the paper's rule, over prompts, 95%."""


def meetings_of(votes: Sequence[Vote]) -> list[Meeting]:
    """All pairs of methods with votes, overall and by dimension."""
    found = []
    for first, second in dict.fromkeys((vote.first, vote.second) for vote in votes):
        met = [vote for vote in votes if (vote.first, vote.second) == (first, second)]
        found.append(_meeting(met, ALL, [overall(vote.verdicts.values()) for vote in met]))
        for name in dict.fromkeys(name for vote in met for name in vote.verdicts):
            asked = [vote for vote in met if name in vote.verdicts]
            found.append(_meeting(asked, name, [vote.verdicts[name] for vote in asked]))
    return found


def _meeting(votes: Sequence[Vote], dimension: str, verdicts: Sequence[int]) -> Meeting:
    reach = over_prompts((vote.prompt for vote in votes), verdicts)
    return Meeting(votes[0].first, votes[0].second, dimension, Tally.of(verdicts), reach)


def agreement(votes: Sequence[Vote]) -> dict[str, float | None]:
    """Krippendorff's alpha by dimension, and of the paper's verdict over all of them."""
    found = {ALL: alpha(_units((v.pair, overall(v.verdicts.values())) for v in votes))}
    for name in dict.fromkeys(name for vote in votes for name in vote.verdicts):
        asked = [vote for vote in votes if name in vote.verdicts]
        found[name] = alpha(_units((vote.pair, vote.verdicts[name]) for vote in asked))
    return found


def _units(rated: Iterable[tuple[str, int]]) -> list[list[int]]:
    units: dict[str, list[int]] = {}
    for pair, verdict in rated:
        units.setdefault(pair, []).append(verdict)
    return list(units.values())
