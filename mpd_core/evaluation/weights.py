"""Mean weights by position in the reply and by kind of word."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean
from typing import Any

from mpd_core.analysis import words
from mpd_core.evaluation.store import Row

PARTS = ("first third", "second third", "last third")
KINDS = ("function words", "content words", "other")


def weights_by(replies: Iterable[Row]) -> dict[str, Any]:
    """{method: {code: {"experts", "tokens", "by_position", "by_kind"}}}, mean weights each.

    Of the methods whose weights differ between tokens; constant ones say nothing here.
    """
    table: dict[str, Any] = {}
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in replies:
        if "weights" in row:
            groups.setdefault((row["method"], row["code"]), []).append(row)
    for (method, code), rows in groups.items():
        if any(step != row["weights"][0] for row in rows for step in row["weights"]):
            table.setdefault(method, {})[code] = {
                "experts": rows[0]["experts"],
                "tokens": sum(len(row["weights"]) for row in rows),
                "by_position": _means(rows, positions, PARTS),
                "by_kind": _means(rows, lambda row: kinds(row["pieces"]), KINDS),
            }
    return table


def _means(
    rows: Sequence[Row], labels: Callable[[Row], Sequence[str]], names: Sequence[str]
) -> dict[str, list[float]]:
    found: dict[str, list[list[float]]] = {name: [] for name in names}
    for row in rows:
        for name, weights in zip(labels(row), row["weights"], strict=True):
            found[name].append(weights)
    return {name: [*map(fmean, zip(*steps, strict=True))] for name, steps in found.items() if steps}


def positions(row: Row) -> list[str]:
    """Which third of the reply each token lies in."""
    count = len(row["weights"])
    return [PARTS[3 * index // count] for index in range(count)]


def kinds(pieces: Sequence[str]) -> list[str]:
    """Of each token: is the word that it is part of a function word, a content word, or neither?

    As ``python -m mpd_core trace`` has it, whose punctuation is ``other`` here.
    """
    return [f"{kind}s" if kind.endswith("word") else KINDS[2] for kind in words.kinds(pieces)]
