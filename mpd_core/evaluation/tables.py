"""Validation of the text measures on written answers, as values and as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from mpd_core.evaluation import Figures
from mpd_core.evaluation.judges import FITTED
from mpd_core.evaluation.measures import TextJudge, identification, minimal_pairs, written
from mpd_core.method.preferences import PreferenceSpace
from mpd_core.training.data import Styled


def validation(judge: TextJudge, space: PreferenceSpace, rows: Sequence[Styled]) -> Figures:
    """A judge's accuracy on written answers, whose poles are known.

    Returns:
        Shares by preference and dimension with "neither" allowed (it counts half) and ``forced``
        to one of the poles, and the accuracy on pairs that differ in one letter.
    """
    replies = written(space, rows)
    return {
        "judge": judge.name,
        "kind": FITTED,
        "prompts": len(rows),
        "shares": identification(space, replies, judge).get("written", {}),
        "forced": identification(space, replies, judge.forced).get("written", {}),
        "minimal_pairs": minimal_pairs(judge, space, rows),
    }


def validation_text(figures: Mapping[str, Any]) -> str:
    """The same in lines."""
    lines = [
        f"Measures on the written answers to {figures['prompts']} prompts. {figures['kind']}",
        "Named pole right, neither counts half (in brackets: forced to name one)",
    ]
    shares, forced, pairs = figures["shares"], figures["forced"], figures["minimal_pairs"]
    for name in dict.fromkeys(name for row in shares.values() for name in row):
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
