"""Which pairs of methods are compared."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from mpd_core.engine.plan import ONE_EXPERT

MAIN = "mpd"


def meetings(methods: Sequence[str]) -> list[tuple[str, str]]:
    """All pairs of methods, except that single experts are compared with MPD only."""
    main = main_of(methods)
    ordered = [main, *(method for method in methods if method != main)]
    return [
        (first, second)
        for first, second in itertools.combinations(ordered, 2)
        if first == main or (not second.startswith(ONE_EXPERT) and not first.startswith(ONE_EXPERT))
    ]


def main_of(methods: Sequence[str]) -> str:
    """Whom the others are compared with: MPD where it is there."""
    return MAIN if MAIN in methods else methods[0]
