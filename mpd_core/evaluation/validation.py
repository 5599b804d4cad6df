"""The text measures' scales: fitted to a pack's written answers, and checked on others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from mpd_core.evaluation import Figures
from mpd_core.evaluation.card import one_letter_apart
from mpd_core.evaluation.cells import union
from mpd_core.evaluation.identified import identify, shares_of
from mpd_core.evaluation.measures import FITTED, Scorer, TextJudge, end_of
from mpd_core.evaluation.scales import Scale, fit
from mpd_core.evaluation.store import Row
from mpd_core.method.preferences import Pole, PreferenceSpace
from mpd_core.training.data import NEUTRAL, Styled

WRITTEN = "written"
"""In place of a method: an answer whose poles are known, which tells how well judges read."""


def calibrate(
    space: PreferenceSpace, measures: Mapping[str, str], rows: Sequence[Styled]
) -> dict[str, Scale]:
    """Scales for all measures of a pack, from written answers of the training split.

    An answer in the style of a pole, or to a preference with it, shows it; the answers in other
    styles, and the neutral one, show neither.
    """
    by_name = {pole.name: pole for pole in space.poles}
    shown: dict[str, tuple[Pole, ...]] = {name: (pole,) for name, pole in by_name.items()}
    shown |= {preference.code: preference.poles for preference in space} | {NEUTRAL: ()}
    ends = {by_name[pole]: end_of(measure) for pole, measure in measures.items() if pole in by_name}
    scales = {}
    for measure in dict.fromkeys(measure for measure, _ in ends.values()):
        side = {pole: end for pole, (other, end) in ends.items() if other == measure}
        labelled = [
            (text, sum(side.get(pole, 0) for pole in shown[name]))
            for row in rows
            for name, text in row.answers.items()
            if name in shown
        ]
        texts, labels = zip(*labelled, strict=True)
        scales[measure] = fit(measure, texts, [max(-1, min(1, label)) for label in labels])
    return scales


def validation(judge: TextJudge, space: PreferenceSpace, rows: Sequence[Styled]) -> Figures:
    """A judge's accuracy on written answers, whose poles are known.

    Returns:
        Shares by preference and dimension with "neither" allowed (it counts half) and ``forced``
        to one of the poles, and the accuracy on pairs that differ in one letter.
    """
    scorers: dict[str, Scorer] = {"shares": judge, "forced": judge.forced}
    found = identify(space, written(space, rows), scorers)
    shares = {name: shares_of(found, name).get(WRITTEN, {}) for name in scorers}
    facts = {"judge": judge.name, "kind": FITTED, "prompts": len(rows)}
    return {**facts, **shares, "minimal_pairs": minimal_pairs(judge, space, rows)}


def written(space: PreferenceSpace, rows: Iterable[Styled]) -> list[Row]:
    """The written answers to whole preferences, as replies by the method ``WRITTEN``."""
    codes = [preference.code for preference in space]
    return [
        {"prompt": row.prompt, "code": code, "method": WRITTEN, "text": row.answers[code]}
        for row in rows
        for code in codes
        if code in row.answers
    ]


def minimal_pairs(judge: TextJudge, space: PreferenceSpace, rows: Sequence[Styled]) -> Figures:
    """By dimension, over written answers that differ in one letter alone: pairs, and accuracy.

    A pair is right where the answer with a pole leans more to it than the other answer does.
    """
    table, apart = {}, [one for one in one_letter_apart(space) if one[2] < one[3]]
    for dimension in judge.dimensions:
        right = [
            judge.lean(pole.name, row.answers[own]) > judge.lean(pole.name, row.answers[other])
            for row in rows
            for name, pole, own, other in apart
            if name == dimension.name and {own, other} <= row.answers.keys()
        ]
        if right:
            table[dimension.name] = {"pairs": len(right), "accuracy": fmean(right)}
    return table


def validation_text(figures: Mapping[str, Any]) -> str:
    """What ``validation`` gives, in lines."""
    lines = [
        f"Measures on the written answers to {figures['prompts']} prompts. {figures['kind']}",
        "Named pole right, neither counts half (in brackets: forced to name one)",
    ]
    shares, forced, pairs = figures["shares"], figures["forced"], figures["minimal_pairs"]
    for name in union(shares.values()):
        cells = "  ".join(
            f"{code} {shares[code][name]:.2f} ({forced[code][name]:.2f})" for code in sorted(shares)
        )
        mean = fmean(shares[code][name] for code in shares)
        lines += [f"  {name}: {cells}", f"    mean {mean:.3f}"]
        if name in pairs:
            lines[-1] += "; minimal pairs {accuracy:.3f} of {pairs}".format(**pairs[name])
    if "experts" in figures:
        lines += ["", "The answers that experts learn from:", validation_text(figures["experts"])]
    return "\n".join(lines)
