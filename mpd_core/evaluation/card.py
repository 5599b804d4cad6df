"""What a judge is worth: its accuracy on written answers, whose poles are known, and its biases."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from statistics import fmean

from mpd_core.evaluation import Figures
from mpd_core.evaluation.cells import union
from mpd_core.evaluation.judging import Pair, Question
from mpd_core.evaluation.verdicts import Judged
from mpd_core.method.preferences import Pole, PreferenceSpace
from mpd_core.training.data import Styled

RIGHT, WRONG = "written", "opposite"


def one_letter_apart(space: PreferenceSpace) -> Iterator[tuple[str, Pole, str, str]]:
    """Two preferences that differ in one letter, in both orders: the name of the dimension, the
    pole of the first, and both codes."""
    for one, other in itertools.permutations(space, 2):
        different = one.chosen.items() - other.chosen.items()
        if len(different) == 1:
            (name, pole), *_ = different
            yield name, pole, one.code, other.code


def known_pairs(space: PreferenceSpace, rows: Iterable[Styled]) -> list[Pair]:
    """Minimal pairs: written answers to two preferences that differ in the dimension asked about.

    Each pair is asked about either of its two poles, so that no answer is the better one always.
    """
    apart, pairs = list(one_letter_apart(space)), []
    for row in rows:
        for name, pole, own, other in apart:
            if {own, other} <= row.answers.keys():
                texts = row.answers[own], row.answers[other]
                question = Question(row.prompt, name, pole.name, pole.instruction, *texts)
                longer = len(texts[0].split()) - len(texts[1].split())
                pairs.append(Pair(row.id, own, RIGHT, WRONG, {name: question}, longer))
    return pairs


def card(found: Sequence[Judged], length_dimension: str | None) -> Figures:
    """By dimension: pairs, accuracy (a tie counts half), flip rate, and how often the longer reply
    is preferred where one is, which is half the time for a judge that length leaves cold."""
    table: Figures = {}
    for name in union(judged.verdicts for judged in found):
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
