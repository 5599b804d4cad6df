"""Markdown parts of reports: summary of toggle identification, heat tables, votes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mpd_core.evaluation.cells import NOTHING, Table, line, number, percent, table
from mpd_core.evaluation.identified import shares_of

IDENTIFIED = (
    "Mean over cells; share of replies that show every chosen pole; and the worst cell, by judge:"
)
FORCED = "measure_forced"
CARD = "Its card: written answers that differ in one letter (a tie counts half)."
NAMES = {"measure": "measures", FORCED: "measures, forced to name one"}


def fewer(found: Mapping[str, Any]) -> str:
    """Which methods have replies to fewer prompts than the others, so that means differ by that."""
    replies = {method: row["replies"] for method, row in found["quality"].items()}
    most, count = max(replies.values(), default=0), found["run"]["count"]
    said = [f"{line(m)} {count * n // most}" for m, n in replies.items() if n < most]
    return f" Some methods have only the first of them: {', '.join(said)}." if said else ""


def summary(found: Mapping[str, Any]) -> Iterator[str]:
    """Mean and worst cell of every method by every judge, and what each preference shows least."""
    yield IDENTIFIED
    yield ""
    yield from identified(found["identified"])
    yield from worst(found)


def heat(shown: Mapping[str, Any], judge: str) -> list[str]:
    """One judge's heat table: every method and dimension down, preferences across, in percent.

    A method's worst cells are bold; red is below a third, green above two thirds.
    """
    shares = shares_of(shown, judge)
    codes = sorted({code for rows in shares.values() for code in rows})
    lines = []
    for method, rows in shares.items():
        least = min((share for row in rows.values() for share in row.values()), default=0.0)
        for name in dict.fromkeys(name for row in rows.values() for name in row):
            cells = (_shade(rows.get(code, {}).get(name), least) for code in codes)
            lines.append([method, name, *cells])
    return table(["method", "dimension", *codes], lines) if lines else []


def _shade(share: float | None, least: float) -> str:
    if share is None:
        return NOTHING
    mark = "🟥" if share < 1 / 3 else "🟩" if share > 2 / 3 else "⬜"
    return f"{mark} **{percent(share)}**" if share == least else f"{mark} {percent(share)}"


def identified(found: Mapping[str, Any]) -> list[str]:
    """One row per method, one column per judge."""
    judges = list(dict.fromkeys(name for row in found.values() for name in row))
    rows = [[method, *(_both(row.get(name)) for name in judges)] for method, row in found.items()]
    return table(["method", *(NAMES.get(name, name) for name in judges)], rows)


def _both(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return NOTHING
    code, name, share = cell["worst"]
    return f"{cell['mean']:.2f}; {number(cell['whole'])}; {share:.2f} ({name} of {code})"


def worst(found: Mapping[str, Any]) -> Iterator[str]:
    """The weakest dimension of each preference, by method."""
    codes = list(dict.fromkeys(code for row in found["worst"].values() for code in row))
    if not codes:
        return
    yield "The worst dimension of each preference:"
    yield ""
    yield from table(
        ["method", *codes],
        [
            [method, *(f"{row[c][0]} {row[c][1]:.2f}" if c in row else NOTHING for c in codes)]
            for method, row in found["worst"].items()
        ],
    )


def card(found: Mapping[str, Any]) -> Table:
    """A judge's card, by dimension."""
    rows = [
        [
            *(name, str(row["pairs"]), number(row["accuracy"]), number(row["flip_rate"])),
            number(row.get("prefers_longer")),
        ]
        for name, row in found.items()
    ]
    return ["known pairs", "pairs", "accuracy", "flips", "prefers the longer"], rows


def whole(meetings: Sequence[Mapping[str, Any]]) -> Table:
    """What readers say of pairs as a whole."""
    rows = [
        [
            *(row["first"], row["second"], counted(row["whole"])),
            *(number(row["whole"]["half_rate"]), f"{row['whole']['p']:.2g}"),
        ]
        for row in meetings
        if row.get("whole")
    ]
    return ["first", "second", "W/T/L", "(W+T/2)/N", "p"], rows


def quality(found: Mapping[str, Any]) -> Table:
    """Readers' marks."""
    rows = [
        [method, number(cell["mean"]), str(cell["replies"])]
        for method, cell in found["quality"].items()
    ]
    return ["method", "quality of 5", "replies read"], rows


def readers(found: Mapping[str, Any] | None) -> Iterator[str]:
    """What blind readers said beside poles and pairs."""
    if found and found["quality"]:
        yield from ("## How good replies are, by blind readers", "", *table(*quality(found)))


def people(found: Mapping[str, Any]) -> Iterator[str]:
    """Win rates by people's votes, and how far they agree."""
    if not found["meetings"]:
        return
    yield "## Who wins, by people"
    yield ""
    agreed = [f"{k} {number(v)}" for k, v in found["agreement"].items() if v is not None]
    said = f"Krippendorff's alpha: {', '.join(agreed)}." if agreed else "No pair has two raters."
    yield f"{found['votes']} votes by {found['raters']} raters. {said}"
    yield ""
    yield from table(
        ["first", "second", "dimension", "W/T/L", "win rate", "(W+T/2)/N", "p"],
        [
            [
                *(row["first"], row["second"], row["dimension"]),
                counted(row),
                *(rate(row), number(row["half_rate"]), f"{row['p']:.2g}"),
            ]
            for row in found["meetings"]
        ],
    )


def counted(row: Mapping[str, Any]) -> str:
    """Wins, ties and losses."""
    return f"{row['wins']}/{row['ties']}/{row['losses']}"


def rate(row: Mapping[str, Any]) -> str:
    """A win rate by the paper's rule with its interval."""
    if row["paper_rate"] is None:
        return NOTHING
    reach = row["paper_interval"]
    tail = f" ({reach[0]:.2f} to {reach[1]:.2f})" if reach else ""
    return f"{row['paper_rate']:.2f}{tail}"
