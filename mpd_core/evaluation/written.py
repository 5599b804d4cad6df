"""Written answers, whose poles are known: what judges are worth, and what scales are fitted to."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from statistics import fmean

from mpd_core.evaluation import Figures, Found, union
from mpd_core.evaluation.cues import sentences, settled
from mpd_core.evaluation.identified import identify, shares_of
from mpd_core.evaluation.judging import WRITTEN, Pair, Question
from mpd_core.evaluation.measures import FITTED, Scorer, TextJudge, end_of
from mpd_core.evaluation.record import Row
from mpd_core.evaluation.scales import NEITHER, WITH_LEXICONS, Scale, fit
from mpd_core.evaluation.statistics import mean_known
from mpd_core.evaluation.verdicts import Judged
from mpd_core.method.preferences import Pole, PreferenceSpace
from mpd_core.rendering import rendered
from mpd_core.training.data import NEUTRAL, Styled
from mpd_core.training.measures import words

OPPOSITE = "opposite"
"""In place of a method: the written answer to a preference with another letter."""
FEWEST_IN_COMMON = 8
"""Words that two answers must share to tell what their subject is like without a pole."""


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
                pairs.append(Pair(row.id, own, WRITTEN, OPPOSITE, {name: question}))
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
            table[name]["prefers_longer"] = mean_known(
                (judged.verdicts[name] > 0) == (judged.pair.longer_by > 0)
                for judged in rows
                if judged.verdicts[name] and judged.pair.longer_by
            )
    return table


def written(space: PreferenceSpace, rows: Iterable[Styled]) -> list[Row]:
    """The written answers to whole preferences, as replies by the method ``WRITTEN``."""
    codes = [preference.code for preference in space]
    return [
        {"prompt": row.prompt, "code": code, "method": WRITTEN, "text": row.answers[code]}
        for row in rows
        for code in codes
        if code in row.answers
    ]


def validation(judge: TextJudge, space: PreferenceSpace, rows: Sequence[Styled]) -> Figures:
    """A judge's accuracy on written answers.

    Returns:
        Shares by preference and dimension with "neither" allowed (it counts half) and ``forced``
        to one of the poles, and the accuracy on pairs that differ in one letter: right where the
        answer with a pole leans more to it than the other answer does.
    """
    scorers: dict[str, Scorer] = {"shares": judge, "forced": judge.forced}
    found = identify(space, written(space, rows), scorers)
    shares = {name: shares_of(found, name).get(WRITTEN, {}) for name in scorers}
    pairs: Figures = {}
    apart = [one for one in one_letter_apart(space) if one[2] < one[3]]
    for dimension in judge.dimensions:
        right = [
            judge.lean(pole.name, row.answers[own]) > judge.lean(pole.name, row.answers[other])
            for row in rows
            for name, pole, own, other in apart
            if name == dimension.name and {own, other} <= row.answers.keys()
        ]
        if right:
            pairs[dimension.name] = {"pairs": len(right), "accuracy": fmean(right)}
    facts = {"judge": judge.name, "kind": FITTED, "prompts": len(rows)}
    return {**facts, **shares, "minimal_pairs": pairs}


def validation_said(found: Found) -> str:
    """A sentence on what ``validation`` gives, shown with tables that the text measures made.

    Empty where the pack has no written answers that could tell.
    """
    rows, pairs = found["shares"].values(), found["minimal_pairs"].values()
    shares = [share for row in rows for share in row.values()]
    if not shares or not pairs:
        return ""
    count = sum(row["pairs"] for row in pairs)
    right = sum(row["pairs"] * row["accuracy"] for row in pairs) / count
    each = ", ".join(
        f"{name} {fmean(row[name] for row in rows if name in row):.2f}" for name in union(rows)
    )
    return (
        f"On held-out written answers it names the pole right in {fmean(shares):.2f} ({each}; "
        f"neither counts half), and of two that differ in one letter prefers the right one in "
        f"{right:.2f} of {count}."
    )


def validation_text(figures: Found) -> str:
    """What ``validation`` gives, in lines; under ``experts``, too."""
    parts = [rendered("validation.txt", found=figures, names=union(figures["shares"].values()))]
    if "experts" in figures:
        parts.append(f"The answers that experts learn from:\n{validation_text(figures['experts'])}")
    return "\n\n".join(part.rstrip("\n") for part in parts)


def calibrate(
    space: PreferenceSpace, measures: Mapping[str, str], answers: Mapping[str, Sequence[Styled]]
) -> dict[str, Scale]:
    """Scales for all measures of a pack, from written answers of the training split.

    An answer in the style of a pole, or to a preference with it, shows it; the answers in other
    styles, and the neutral one, show neither. Nor does, for a scale that counts words, what two
    answers have in common that differ in its dimension alone.

    Args:
        answers: by the name of a set, the pack's own first.
    """
    by_name = {pole.name: pole for pole in space.poles}
    shown: dict[str, tuple[Pole, ...]] = {name: (pole,) for name, pole in by_name.items()}
    shown |= {preference.code: preference.poles for preference in space} | {NEUTRAL: ()}
    ends = {by_name[pole]: end_of(measure) for pole, measure in measures.items() if pole in by_name}
    scales = {}
    for measure in dict.fromkeys(measure for measure, _ in ends.values()):
        side = {pole: end for pole, (other, end) in ends.items() if other == measure}
        sets: dict[str, list[tuple[str, int]]] = {}
        for source, rows in answers.items():
            sets[source] = [
                (text, max(-1, min(1, sum(side.get(pole, 0) for pole in shown[name]))))
                for row in rows
                for name, text in row.answers.items()
                if name in shown
            ]
            if measure in WITH_LEXICONS:
                sets[source] += [(text, NEITHER) for text in in_common(space, side, rows)]
        scales[measure] = fit(measure, sets)
    return scales


def in_common(
    space: PreferenceSpace, poles: Collection[Pole], rows: Iterable[Styled]
) -> Iterator[str]:
    """The sentences that stand in both of two answers which differ in one of these poles alone."""
    apart = [
        (own, other)
        for _, pole, own, other in one_letter_apart(space)
        if own < other and pole in poles
    ]
    for row in rows:
        for own, other in apart:
            if {own, other} <= row.answers.keys():
                said = set(sentences(settled(row.answers[other])))
                same = [part for part in sentences(settled(row.answers[own])) if part in said]
                if len(words(" ".join(same))) >= FEWEST_IN_COMMON:
                    yield " ".join(same)
