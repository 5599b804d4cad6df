"""A judge's card: its accuracy on pairs whose better reply is known, and its biases."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from statistics import fmean
from typing import Any

from mpd_core.evaluation.judging import Pair, Question
from mpd_core.evaluation.verdicts import Judged
from mpd_core.method.preferences import Preference, PreferenceSpace
from mpd_core.training.data import Styled

RIGHT, WRONG = "written", "opposite"


def known_pairs(space: PreferenceSpace, rows: Iterable[Styled]) -> list[Pair]:
    """Minimal pairs: written answers to two preferences that differ in the dimension asked about.

    Each pair is asked about either of its two poles, so that no answer is the better one always.
    """
    return [
        pair
        for row in rows
        for one, other in itertools.permutations(space, 2)
        for pair in _pair(row, one, other)
    ]


def _pair(row: Styled, one: Preference, other: Preference) -> Iterator[Pair]:
    choices = zip(one.dimensions, one.choices, other.choices, strict=True)
    different = [(dimension, pole) for dimension, pole, opposite in choices if pole != opposite]
    if len(different) != 1 or not {one.code, other.code} <= set(row.answers):
        return
    dimension, pole = different[0]
    if pole is None:
        return
    first, second = row.answers[one.code], row.answers[other.code]
    question = Question(row.prompt, dimension.name, pole.name, pole.instruction, first, second)
    longer = len(first.split()) - len(second.split())
    yield Pair(row.id, one.code, RIGHT, WRONG, {dimension.name: question}, longer)


def card(found: Sequence[Judged], length_dimension: str | None) -> dict[str, Any]:
    """By dimension: pairs, accuracy (a tie counts half), flip rate, and how often the longer reply
    is preferred where one is, which is half the time for a judge that length leaves cold."""
    names = dict.fromkeys(name for judged in found for name in judged.verdicts)
    table: dict[str, Any] = {}
    for name in names:
        rows = [judged for judged in found if name in judged.verdicts]
        table[name] = {
            "pairs": len(rows),
            "accuracy": fmean((judged.verdicts[name] + 1) / 2 for judged in rows),
            "flip_rate": fmean(judged.flipped[name] for judged in rows),
        }
        if name != length_dimension:
            table[name]["prefers_longer"] = _longer(rows, name)
    return table


def _longer(rows: Sequence[Judged], name: str) -> float | None:
    decided = [
        (judged.verdicts[name] > 0) == (judged.pair.longer_by > 0)
        for judged in rows
        if judged.verdicts[name] and judged.pair.longer_by
    ]
    return fmean(decided) if decided else None
