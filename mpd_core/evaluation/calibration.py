"""Fit the scales of text measures to a pack's written answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mpd_core.evaluation.measures import end_of
from mpd_core.evaluation.scales import Scale, fit
from mpd_core.method.preferences import Pole, PreferenceSpace
from mpd_core.training.data import NEUTRAL, Styled


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
