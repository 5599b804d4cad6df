"""Results of people's votes: win rates with intervals, and inter-rater agreement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

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
    units: dict[str, dict[str, list[int]]] = {ALL: {}}
    for vote in votes:
        for name, verdict in {ALL: overall(vote.verdicts.values()), **vote.verdicts}.items():
            units.setdefault(name, {}).setdefault(vote.pair, []).append(verdict)
    return {name: alpha(rated.values()) for name, rated in units.items()}


def alpha(units: Iterable[Sequence[float]]) -> float | None:
    """Krippendorff's alpha with the difference function of an interval scale, (a - b)^2.

    So a loss is further from a win than a tie is. 1 is full agreement, 0 what chance would give;
    below 0 raters disagree more than by chance. Units that one rater alone has seen say nothing.

    Args:
        units: the ratings of each unit, by whatever raters; -1, 0 and 1 for loss, tie and win.

    Returns:
        None where no two raters have seen the same, or all ratings are alike.
    """
    shared = [unit for unit in units if len(unit) > 1]
    values = Counter(value for unit in shared for value in unit)
    total = sum(values.values())
    seen = sum(_apart(Counter(unit)) / (len(unit) - 1) for unit in shared)
    expected = _apart(values) / (total - 1) if total > 1 else 0.0
    return 1 - seen / expected if expected else None


def _apart(values: Counter[float]) -> float:
    """Sum of squared differences over all ordered pairs of these values."""
    return sum(
        count * other * (one - two) ** 2
        for one, count in values.items()
        for two, other in values.items()
    )
