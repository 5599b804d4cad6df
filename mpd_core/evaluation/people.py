"""Results of people's votes: win rates with intervals, and inter-rater agreement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from mpd_core.evaluation import Figures
from mpd_core.evaluation.statistics import Tally, over_prompts, overall
from mpd_core.evaluation.votes import Vote

ALL = "all"
"""In place of a dimension: the paper's verdict over all of them."""


def meetings_of(votes: Iterable[Vote]) -> list[Figures]:
    """All pairs of methods with votes, over all dimensions and by dimension: ``Tally.figures`` and
    ``paper_interval``, of the win rate by the paper's rule, over prompts, 95%."""
    pairs: dict[tuple[str, str], dict[str, list[tuple[str, int]]]] = {}
    for vote in votes:
        met = pairs.setdefault((vote.first, vote.second), {})
        for name, verdict in _verdicts(vote).items():
            met.setdefault(name, []).append((vote.prompt, verdict))
    return [
        {
            **{"first": first, "second": second, "dimension": name},
            **Tally.of(verdict for _, verdict in given).figures,
            "paper_interval": over_prompts(*zip(*given, strict=True)),
        }
        for (first, second), met in pairs.items()
        for name, given in met.items()
    ]


def _verdicts(vote: Vote) -> Mapping[str, int]:
    return {ALL: overall(vote.verdicts.values()), **vote.verdicts}


def agreement(votes: Iterable[Vote]) -> dict[str, float | None]:
    """Krippendorff's alpha by dimension, and of the paper's verdict over all of them."""
    units: dict[str, dict[str, list[int]]] = {ALL: {}}
    for vote in votes:
        for name, verdict in _verdicts(vote).items():
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
