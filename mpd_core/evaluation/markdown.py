"""A run's figures as Markdown: a table a question."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

NOTHING = "–"


def markdown(found: Mapping[str, Any]) -> str:
    """The report to read: a table a question."""
    run = found["run"]
    lines = [
        f"# Evaluation of {_line(run['pack'])}",
        "",
        f"{run['count']} prompts ({_line(run['prompts'])}), {_setting(run['sampling'])}, "
        f"{'; '.join(run['devices'])}.",
        "",
        *_identification(found),
        *_validation(found["validation"]),
    ]
    for name, judge in found["judges"].items():
        lines += _matrix(name, judge)
    lines += [*_quality(found["quality"]), *_weights(found["weights"])]
    return "\n".join(lines) + "\n"


def _setting(sampling: Mapping[str, Any]) -> str:
    first = "greedy" if sampling["temperature"] == 0 else f"temperature {sampling['temperature']:g}"
    return (
        f"{first}, at most {sampling['max_new_tokens']} tokens, repetition penalty "
        f"{sampling['repetition_penalty']:g}, loop penalty {sampling['dry_multiplier']:g}"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    safe = [[_line(cell) for cell in row] for row in (head, *rows)]
    drawn = ["| " + " | ".join(row) + " |" for row in safe]
    return [drawn[0], "|" + "---|" * len(head), *drawn[1:], ""]


def _line(text: str) -> str:
    """A name from a file or a pack, which must not draw a table or a heading of its own."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _number(value: float | None, digits: int = 2) -> str:
    return NOTHING if value is None else f"{value:.{digits}f}"


def _identification(found: Mapping[str, Any]) -> Iterator[str]:
    table = found["identification"]
    yield "## Which poles the replies show"
    yield ""
    yield (
        "Share of replies in which the text measures name the chosen pole; neither counts half, "
        "and 0.50 is what a reply without any style gets. The worst cell of each method is bold."
    )
    yield ""
    for method, rows in table.items():
        names = list(dict.fromkeys(name for row in rows.values() for name in row))
        cells = [row[name]["measure"] for row in rows.values() for name in row]
        if not cells:
            continue
        yield f"### {method}: mean {fmean(cells):.2f}, worst {min(cells):.2f}"
        yield ""
        yield from _table(
            ["preference", *names],
            [
                [code, *(_cell(row, name, min(cells)) for name in names)]
                for code, row in rows.items()
            ],
        )


def _cell(row: Mapping[str, Any], name: str, least: float) -> str:
    if name not in row:
        return NOTHING
    share = row[name]["measure"]
    return f"**{share:.2f}**" if share == least else f"{share:.2f}"


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
    yield from _table(
        ["preference", *names],
        [
            [code, *(f"{shares[code][n]:.2f} ({forced[code][n]:.2f})" for n in names)]
            for code in sorted(shares)
        ],
    )


def _matrix(name: str, judge: Mapping[str, Any]) -> Iterator[str]:
    yield f"## Who wins, by the judge '{name}'"
    yield ""
    yield f"{judge['kind']} Both orders asked; answers that flipped: {_number(judge['flip_rate'])}."
    yield (
        "Win rate: the paper's rule (sign of the sum over dimensions, zero sums dropped), with a "
        "95% interval over prompts; p: exact binomial on decided pairs; Holm: over this table."
    )
    yield (
        "Like length: (W+T/2)/N over the dimensions other than length, as it would be for replies "
        "of one length. Found: how far from 0.50 a rate must be for this many pairs to tell."
    )
    yield ""
    yield from _table(
        ["first", "second", "win rate", "W/T/L", "(W+T/2)/N", "p", "Holm", "like length", "found"],
        [
            [
                row["first"],
                row["second"],
                _rate(row),
                f"{row['wins']}/{row['ties']}/{row['losses']}",
                _number(row["half_rate"]),
                f"{row['p']:.2g}",
                f"{row['p_holm']:.2g}",
                _number(row["length_controlled"]),
                f"{row['detectable']:.2f}",
            ]
            for row in judge["meetings"]
        ],
    )
    yield from _dimensions(judge["meetings"])
    yield from _table(
        ["method", "mean win rate", "Bradley-Terry"],
        [
            [method, _number(judge["average"].get(method)), f"{points:.0f}"]
            for method, points in judge["strengths"].items()
        ],
    )
    yield from _card(judge["card"])


def _card(card: Mapping[str, Any]) -> list[str]:
    if not card:
        return []
    head = ["known pairs", "pairs", "accuracy", "flips", "prefers the longer"]
    rows = [
        [
            name,
            str(row["pairs"]),
            _number(row["accuracy"]),
            _number(row["flip_rate"]),
            _number(row.get("prefers_longer")),
        ]
        for name, row in card.items()
    ]
    said = "Its card: written answers that differ in one letter (a tie counts half)."
    return [said, "", *_table(head, rows)]


def _rate(row: Mapping[str, Any]) -> str:
    if row["paper_rate"] is None:
        return NOTHING
    reach = row["paper_interval"]
    tail = f" ({reach[0]:.2f} to {reach[1]:.2f})" if reach else ""
    return f"{row['paper_rate']:.2f}{tail}"


def _dimensions(meetings: Sequence[Mapping[str, Any]]) -> list[str]:
    names = list(dict.fromkeys(name for row in meetings for name in row["by_dimension"]))
    rows = [
        [
            row["first"],
            row["second"],
            *(_number(row["by_dimension"].get(name, {}).get("half_rate")) for name in names),
        ]
        for row in meetings
    ]
    return ["(W+T/2)/N by dimension:", "", *_table(["first", "second", *names], rows)]


def _quality(table: Mapping[str, Any]) -> Iterator[str]:
    yield "## How replies are"
    yield ""
    names = list(dict.fromkeys(name for row in table.values() for name in row))
    yield from _table(
        ["method", *(name.replace("_", " ") for name in names)],
        [
            [method, *(_number(row.get(n), 0 if n in ("replies", "words") else 2) for n in names)]
            for method, row in table.items()
        ],
    )


def _weights(table: Mapping[str, Any]) -> Iterator[str]:
    for method, rows in table.items():
        yield f"## Where the weights of {method} move"
        yield ""
        parts = ("by_position", "by_kind")
        names = list(dict.fromkeys(n for row in rows.values() for p in parts for n in row[p]))
        yield from _table(
            ["preference", "experts", *names],
            [[code, ", ".join(row["experts"]), *_means(row, names)] for code, row in rows.items()],
        )


def _means(row: Mapping[str, Any], names: Sequence[str]) -> Iterator[str]:
    means = {**row["by_position"], **row["by_kind"]}
    for name in names:
        yield " / ".join(f"{weight:.2f}" for weight in means[name]) if name in means else NOTHING
