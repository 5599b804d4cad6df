"""Figures of a run: how replies are, who wins with what interval, and how weights move."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean

from mpd_core.analysis import words
from mpd_core.evaluation import Figures, Found, grouped, union
from mpd_core.evaluation.measures import empty, unanswered
from mpd_core.evaluation.record import Row, meetings
from mpd_core.evaluation.statistics import (
    Tally,
    bradley_terry,
    detectable,
    holm,
    length_controlled,
    mean_known,
    over_prompts,
    overall,
)
from mpd_core.evaluation.topic import Topic
from mpd_core.evaluation.verdicts import Judged
from mpd_core.training.measures import length, loops

PARTS = ("first third", "second third", "last third")
KINDS = ("function words", "content words", "other")


def quality(replies: Iterable[Row], topic: Topic | None) -> Figures:
    """Properties of replies by method: endings, loops, refusals, length, and topic similarity."""
    table: Figures = {}
    for method, rows in grouped(replies, lambda row: row["method"]).items():
        table[method] = {
            "replies": len(rows),
            "finished": fmean(row["finished"] for row in rows),
            "loops": fmean(loops(row["text"]) for row in rows),
            "empty": fmean(empty(row["text"]) for row in rows),
            "unanswered": fmean(unanswered(row["prompt"], row["text"]) for row in rows),
            "words": fmean(length(row["text"]) for row in rows),
        }
        if topic:
            near = fmean(topic.similarity(row["prompt"], row["text"]) for row in rows)
            table[method]["on_topic"] = near
    return table


def matrix(found: Iterable[Judged], methods: Sequence[str], not_controlled: str | None) -> Figures:
    """The matrix of win rates by one judge: every pair of methods, with Holm-adjusted p-values.

    ``methods`` are in the order of rows; ``not_controlled`` is the dimension that length shows.
    """
    rows = complete(list(found))
    by_pair = grouped(rows, lambda judged: (judged.pair.first, judged.pair.second))
    met = [
        {"first": pair[0], "second": pair[1], **_meeting(by_pair[pair], not_controlled)}
        for pair in meetings(methods)
        if pair in by_pair
    ]
    for row, adjusted in zip(met, holm([row["p"] for row in met]), strict=True):
        row["p_holm"] = adjusted
    tallies = {(r["first"], r["second"]): Tally(r["wins"], r["ties"], r["losses"]) for r in met}
    names = sorted(union(tallies), key=lambda name: (name != "uniform", methods.index(name)))
    points = bradley_terry(tallies, names[0]) if met else {}  # equal weights are 1000, if they met
    return {
        "flip_rate": mean_known(flip for judged in rows for flip in judged.flipped.values()),
        "meetings": met,
        # The last column of the paper's Table 2.
        "average": {one: mean_known(rate(met, one, other) for other in methods) for one in methods},
        "strengths": dict(sorted(points.items(), key=lambda item: -item[1])),
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


def _meeting(found: Sequence[Judged], not_controlled: str | None) -> Figures:
    prompts, longer = [j.pair.id for j in found], [j.pair.longer_by for j in found]
    verdicts = [overall(judged.verdicts.values()) for judged in found]
    others = [
        overall(verdict for name, verdict in judged.verdicts.items() if name != not_controlled)
        for judged in found
    ]
    tally = Tally.of(verdicts)
    by_hand = [judged.whole for judged in found if judged.whole is not None]
    by_code = grouped(found, lambda judged: judged.pair.code)
    return {
        **tally.figures,
        "paper_interval": over_prompts(prompts, verdicts),
        "half_interval": over_prompts(prompts, verdicts, ties=True),
        "whole": Tally.of(by_hand).figures if by_hand else None,
        "detectable": detectable(tally.decided),
        "length_controlled": length_controlled(others, longer),
        "by_dimension": {
            name: _dimension(found, name, name != not_controlled)
            for name in union(judged.verdicts for judged in found)
        },
        "by_code": {
            code: Tally.of(overall(judged.verdicts.values()) for judged in rows).figures
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


def _dimension(found: Iterable[Judged], name: str, controlled: bool) -> Figures:
    rows = [judged for judged in found if name in judged.verdicts]
    verdicts = [judged.verdicts[name] for judged in rows]
    figures = Tally.of(verdicts).figures
    if controlled:
        longer = [judged.pair.longer_by for judged in rows]
        figures["length_controlled"] = length_controlled(verdicts, longer)
    return figures


def rate(meetings: Iterable[Found], first: str, second: str) -> float | None:
    """The win rate of one method over another by the paper's rule, whichever was asked first."""
    rates = {(row["first"], row["second"]): row["paper_rate"] for row in meetings}
    if (own := rates.get((first, second))) is not None:
        return float(own)
    turned = rates.get((second, first))
    return None if turned is None else 1 - float(turned)


def weights_by(replies: Iterable[Row]) -> Figures:
    """{method: {code: {"experts", "tokens", "by_position", "by_kind"}}}, mean weights each.

    Of the methods whose weights differ between tokens; constant ones say nothing here.
    """
    table: Figures = {}
    weighed = (row for row in replies if "weights" in row)
    for (method, code), rows in grouped(weighed, lambda r: (r["method"], r["code"])).items():
        if any(step != row["weights"][0] for row in rows for step in row["weights"]):
            table.setdefault(method, {})[code] = {
                "experts": rows[0]["experts"],
                "tokens": sum(len(row["weights"]) for row in rows),
                "by_position": _means(rows, positions, PARTS),
                "by_kind": _means(rows, lambda row: kinds(row["pieces"]), KINDS),
            }
    return table


def _means(
    rows: Iterable[Row], labels: Callable[[Row], Sequence[str]], names: Sequence[str]
) -> dict[str, list[float]]:
    steps = [pair for row in rows for pair in zip(labels(row), row["weights"], strict=True)]
    found = grouped(steps, lambda step: step[0])
    weights = {name: [w for _, w in found[name]] for name in names if name in found}
    return {name: [fmean(column) for column in zip(*w, strict=True)] for name, w in weights.items()}


def positions(row: Row) -> list[str]:
    """Which third of the reply each token lies in."""
    count = len(row["weights"])
    return [PARTS[3 * index // count] for index in range(count)]


def kinds(pieces: Sequence[str]) -> list[str]:
    """Of each token: is the word that it is part of a function word, a content word, or neither?

    As ``python -m mpd_core trace`` has it, whose punctuation is ``other`` here.
    """
    return [f"{kind}s" if kind.endswith("word") else KINDS[2] for kind in words.kinds(pieces)]
