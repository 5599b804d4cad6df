"""Agreement between raters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence


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
