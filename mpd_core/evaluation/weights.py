"""Where weights move: by position in the reply, and between content and function words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

from mpd_core.evaluation.store import Row
from mpd_core.evaluation.wordlists import FUNCTION

PARTS = ("first third", "second third", "last third")
KINDS = ("function words", "content words", "other")
WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


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


def _means(rows: Sequence[Row], label: Any, names: Sequence[str]) -> dict[str, list[float]]:
    found: dict[str, list[list[float]]] = {name: [] for name in names}
    for row in rows:
        for name, weights in zip(label(row), row["weights"], strict=True):
            found[name].append(weights)
    return {
        name: [fmean(column) for column in zip(*steps, strict=True)]
        for name, steps in found.items()
        if steps
    }


def positions(row: Row) -> list[str]:
    """The third of the reply that each token lies in."""
    count = len(row["weights"])
    return [PARTS[3 * index // count] for index in range(count)]


def kinds(pieces: Sequence[str]) -> list[str]:
    """Of each token: is the word that it is part of a function word, a content word, or neither?

    A piece belongs to the word that it shares most letters with, the first of them on a draw.
    """
    text = "".join(pieces)
    words = [(m.start(), m.end(), m.group().lower() in FUNCTION) for m in WORD.finditer(text)]
    labels, start, index = [], 0, 0
    for piece in pieces:
        end = start + len(piece)
        while index < len(words) and words[index][1] <= start:
            index += 1
        shared: list[tuple[int, str]] = [(0, KINDS[2])]
        for begin, stop, function in words[index:]:
            if begin >= end:
                break
            shared.append((min(end, stop) - max(start, begin), KINDS[0 if function else 1]))
        labels.append(max(shared, key=lambda item: item[0])[1])
        start = end
    return labels
