"""The report of a run as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mpd_core.evaluation.cells import NOTHING, line, number, table
from mpd_core.evaluation.identified import judges_of
from mpd_core.evaluation.paper_text import paper_tables
from mpd_core.evaluation.short_text import (
    CARD,
    NAMES,
    card,
    counted,
    fewer,
    heat,
    people,
    rate,
    readers,
    summary,
    whole,
)


def markdown(found: Mapping[str, Any]) -> str:
    """The report as Markdown tables."""
    run = found["run"]
    lines = [
        f"# Evaluation of {line(run['pack'])}",
        "",
        f"{run['count']} prompts ({line(run['prompts'])}), {_setting(run['sampling'])}, "
        f"{'; '.join(run['devices'])}.{fewer(found)}",
        "",
        "## The paper's tables",
        "",
        *paper_tables(found),
        *_identification(found),
        *summary(found),
        *_validation(found["validation"]),
    ]
    for name, judge in found["judges"].items():
        lines += _matrix(name, judge)
    lines += [*readers(found.get("readers")), *people(found["people"])]
    lines += [*_quality(found["quality"]), *_weights(found["weights"])]
    return "\n".join(lines) + "\n"


def _setting(sampling: Mapping[str, Any]) -> str:
    first = "greedy" if sampling["temperature"] == 0 else f"temperature {sampling['temperature']:g}"
    return (
        f"{first}, at most {sampling['max_new_tokens']} tokens, repetition penalty "
        f"{sampling['repetition_penalty']:g}, loop penalty {sampling['dry_multiplier']:g}"
    )


def _identification(found: Mapping[str, Any]) -> Iterator[str]:
    yield "## Which poles the replies show"
    yield ""
    yield (
        "Share of replies, in percent, in which a judge that sees one reply alone names the chosen "
        "pole; neither counts half, and 50 is what a reply without any style gets. The worst cell "
        f"of each method is bold. The text measures: {found['validation']['said']}"
    )
    yield ""
    for judge in judges_of(found["identification"]):
        yield f"### By the judge '{line(NAMES.get(judge, judge))}'"
        yield ""
        yield from heat(found["identification"], judge)


def _validation(figures: Mapping[str, Any]) -> Iterator[str]:
    yield "## How well the measures read"
    yield ""
    yield (
        f"{figures['kind']} On held-out written answers to {figures['prompts']} prompts, whose "
        "poles are known (in brackets: forced to name one):"
    )
    yield ""
    shares, forced = figures["shares"], figures["forced"]
    if not shares:
        yield "The pack has no written answers that could tell."
        yield ""
        return
    names = list(dict.fromkeys(name for row in shares.values() for name in row))
    yield from table(
        ["preference", *names],
        [
            [code, *(f"{shares[code][n]:.2f} ({forced[code][n]:.2f})" for n in names)]
            for code in sorted(shares)
        ],
    )


def _matrix(name: str, judge: Mapping[str, Any]) -> Iterator[str]:
    yield f"## Who wins, by the judge '{name}'"
    yield ""
    orders = (
        ""
        if judge["flip_rate"] is None
        else (f" Both orders asked; answers that flipped: {number(judge['flip_rate'])}.")
    )
    lost = f" Answers that could not be read: {judge['unread']}." if judge["unread"] else ""
    yield (f"{judge['kind']}{orders}{lost}")
    yield (
        "Win rate: the paper's rule (sign of the sum over dimensions, zero sums dropped), with a "
        "95% interval over prompts; p: exact binomial on decided pairs; Holm: over this table."
    )
    yield (
        "Like length: (W+T/2)/N over the dimensions other than length, as it would be for replies "
        "of one length. Found: how far from 0.50 a rate must be for this many pairs to tell."
    )
    yield ""
    yield from table(
        ["first", "second", "win rate", "W/T/L", "(W+T/2)/N", "p", "Holm", "like length", "found"],
        [
            [
                row["first"],
                row["second"],
                rate(row),
                counted(row),
                number(row["half_rate"]),
                f"{row['p']:.2g}",
                f"{row['p_holm']:.2g}",
                number(row["length_controlled"]),
                f"{row['detectable']:.2f}",
            ]
            for row in judge["meetings"]
        ],
    )
    if any(row.get("whole") for row in judge["meetings"]):
        yield from ("Better as a whole:", "", *table(*whole(judge["meetings"])))
    yield from _parts(judge["meetings"], "by_dimension", "(W+T/2)/N by dimension:")
    yield from _parts(judge["meetings"], "by_code", "(W+T/2)/N by preference:")
    yield from _worst(judge["meetings"])
    yield from table(
        ["method", "mean win rate", "Bradley-Terry"],
        [
            [method, number(judge["average"].get(method)), f"{points:.0f}"]
            for method, points in judge["strengths"].items()
        ],
    )
    if judge["card"]:
        yield from (CARD, "", *table(*card(judge["card"])))


def _parts(meetings: Sequence[Mapping[str, Any]], part: str, said: str) -> list[str]:
    names = list(dict.fromkeys(name for row in meetings for name in row[part]))
    rows = [
        [
            row["first"],
            row["second"],
            *(number(row[part].get(name, {}).get("half_rate")) for name in names),
        ]
        for row in meetings
    ]
    return [said, "", *table(["first", "second", *names], rows)]


def _worst(meetings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Worst dimensions of the matrix's first method (MPD if present) against each other method."""
    rows = [row for row in meetings if row["first"] == meetings[0]["first"]]
    codes = list(dict.fromkeys(code for row in rows for code in row["worst"]))
    cells = [
        [row["first"], row["second"], *(_named(row["worst"].get(code)) for code in codes)]
        for row in rows
    ]
    said = "The worst dimension of each preference, with its (W+T/2)/N:"
    return [said, "", *table(["first", "second", *codes], cells)]


def _named(found: Sequence[Any] | None) -> str:
    return f"{found[0]} {found[1]:.2f}" if found else NOTHING


def _quality(found: Mapping[str, Any]) -> Iterator[str]:
    yield "## How replies are"
    yield ""
    names = list(dict.fromkeys(name for row in found.values() for name in row))
    yield from table(
        ["method", *(name.replace("_", " ") for name in names)],
        [
            [method, *(number(row.get(n), 0 if n in ("replies", "words") else 2) for n in names)]
            for method, row in found.items()
        ],
    )


def _weights(found: Mapping[str, Any]) -> Iterator[str]:
    for method, rows in found.items():
        yield f"## Where the weights of {method} move"
        yield ""
        parts = ("by_position", "by_kind")
        names = list(dict.fromkeys(n for row in rows.values() for p in parts for n in row[p]))
        yield from table(
            ["preference", "experts", *names],
            [[code, ", ".join(row["experts"]), *_means(row, names)] for code, row in rows.items()],
        )


def _means(row: Mapping[str, Any], names: Sequence[str]) -> Iterator[str]:
    means = {**row["by_position"], **row["by_kind"]}
    for name in names:
        yield " / ".join(f"{weight:.2f}" for weight in means[name]) if name in means else NOTHING
