"""Figures of a run: win rates with intervals, and properties of the replies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from statistics import fmean

from mpd_core.evaluation import Figures
from mpd_core.evaluation.cells import union
from mpd_core.evaluation.measures import empty, unanswered
from mpd_core.evaluation.record import meetings
from mpd_core.evaluation.statistics import (
    Tally,
    bradley_terry,
    detectable,
    half_part,
    holm,
    length_controlled,
    over_prompts,
    overall,
)
from mpd_core.evaluation.store import Row
from mpd_core.evaluation.topic import Topic
from mpd_core.evaluation.verdicts import Judged
from mpd_core.training.measures import length, loops


def quality(replies: Sequence[Row], topic: Topic | None) -> Figures:
    """Properties of replies by method: endings, loops, refusals, length, and topic similarity."""
    table: Figures = {}
    for method in dict.fromkeys(row["method"] for row in replies):
        rows = [row for row in replies if row["method"] == method]
        table[method] = {
            "replies": len(rows),
            "finished": fmean(row["finished"] for row in rows),
            "loops": fmean(loops(row["text"]) for row in rows),
            "empty": fmean(empty(row["text"]) for row in rows),
            "unanswered": fmean(unanswered(row["prompt"], row["text"]) for row in rows),
            "words": fmean(length(row["text"]) for row in rows),
        }
        if topic:
            table[method]["on_topic"] = fmean(
                topic.similarity(row["prompt"], row["text"]) for row in rows
            )
    return table


def matrix(found: Sequence[Judged], methods: Sequence[str], not_controlled: str | None) -> Figures:
    """The matrix of win rates by one judge: every pair of methods, with Holm-adjusted p-values.

    ``methods`` are in the order of rows; ``not_controlled`` is the dimension that length shows.
    """
    found = complete(found)
    meets = [
        (first, second, [j for j in found if (j.pair.first, j.pair.second) == (first, second)])
        for first, second in meetings(methods)
    ]
    rows = [_meeting(*meet, not_controlled) for meet in meets if meet[2]]
    for row, adjusted in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = adjusted
    return {
        "flip_rate": flip_rate(found),
        "meetings": rows,
        "average": {method: _average(rows, method) for method in methods},
        "strengths": strengths(rows, methods),
    }


def complete(found: Sequence[Judged]) -> list[Judged]:
    """Without pairs of which the judge, who knows better, has no verdict on some dimension.

    A judge that was stopped, or could not be read, leaves such; the sign of what is left is not
    that of the sum. Dimensions of which it never speaks are left out of every pair alike.
    """
    known = set(union(judged.verdicts for judged in found))
    return [
        judged for judged in found if known & judged.pair.questions.keys() <= judged.verdicts.keys()
    ]


def flip_rate(found: Iterable[Judged]) -> float | None:
    """Share of questions that a judge answered differently in the other order."""
    flips = [flip for judged in found for flip in judged.flipped.values()]
    return fmean(flips) if flips else None


def _meeting(
    first: str, second: str, found: Sequence[Judged], not_controlled: str | None
) -> Figures:
    verdicts = [overall(judged.verdicts.values()) for judged in found]
    others = [
        overall(verdict for name, verdict in judged.verdicts.items() if name != not_controlled)
        for judged in found
    ]
    prompts, tally = [judged.pair.id for judged in found], Tally.of(verdicts)
    by_hand = [judged.whole for judged in found if judged.whole is not None]
    by_code: dict[str, list[Judged]] = {}
    for judged in found:
        by_code.setdefault(judged.pair.code, []).append(judged)
    return {
        "first": first,
        "second": second,
        **counts(tally),
        "paper_interval": over_prompts(prompts, verdicts),
        "half_interval": over_prompts(prompts, verdicts, half_part),
        "whole": counts(Tally.of(by_hand)) if by_hand else None,
        "detectable": detectable(tally.decided),
        "length_controlled": length_controlled(others, [j.pair.longer_by for j in found]),
        "by_dimension": {
            name: _dimension(found, name, name != not_controlled)
            for name in union(judged.verdicts for judged in found)
        },
        "by_code": {
            code: counts(Tally.of(overall(judged.verdicts.values()) for judged in rows))
            for code, rows in by_code.items()
        },
        "worst": {code: _worst(rows) for code, rows in by_code.items()},
    }


def _worst(found: Sequence[Judged]) -> tuple[str, float]:
    """The dimension with the lowest (W + T/2) / N, and that rate."""
    rates = {
        name: fmean((j.verdicts[name] + 1) / 2 for j in found if name in j.verdicts)
        for name in union(judged.verdicts for judged in found)
    }
    return min(rates.items(), key=lambda rate: rate[1])


def _dimension(found: Sequence[Judged], name: str, controlled: bool) -> Figures:
    rows = [judged for judged in found if name in judged.verdicts]
    verdicts = [judged.verdicts[name] for judged in rows]
    figures = counts(Tally.of(verdicts))
    if controlled:
        longer = [judged.pair.longer_by for judged in rows]
        figures["length_controlled"] = length_controlled(verdicts, longer)
    return figures


def counts(tally: Tally) -> Figures:
    """A tally's counts, with its rates by both rules."""
    return {
        **asdict(tally),
        **{"paper_rate": tally.paper_rate, "half_rate": tally.half_rate, "p": tally.p},
    }


def _average(rows: Sequence[Figures], method: str) -> float | None:
    """The mean of a method's win rates by the paper's rule: the last column of its Table 2."""
    decided = [row for row in rows if row["paper_rate"] is not None]
    rates = [row["paper_rate"] for row in decided if row["first"] == method]
    rates += [1 - row["paper_rate"] for row in decided if row["second"] == method]
    return fmean(rates) if rates else None


def strengths(rows: Sequence[Figures], methods: Sequence[str]) -> Figures:
    """Bradley-Terry points over all meetings; equal weights are 1000 where they took part."""
    met = {(r["first"], r["second"]): Tally(r["wins"], r["ties"], r["losses"]) for r in rows}
    if not met:
        return {}
    names = set(union(met))
    anchor = "uniform" if "uniform" in names else next(name for name in methods if name in names)
    points = bradley_terry(met, anchor)
    return dict(sorted(points.items(), key=lambda item: -item[1]))
