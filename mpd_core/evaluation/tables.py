"""The tables of a report, each made once for Markdown, the page, RESULTS.md and README."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence

from mpd_core.evaluation import Found, union
from mpd_core.evaluation.identified import judges_of, shares_of
from mpd_core.evaluation.paper import order_said
from mpd_core.rendering import NOTHING, Column, Table, line, listed, number, percent

MEASURE, FORCED = "measure", "measure_forced"
"""The text measures as judge of single replies, free to say "neither" or not."""
NAMES = {MEASURE: "measures", FORCED: "measures, forced to name one"}
IDENTIFIED = (
    "Mean over cells; share of replies that show every chosen pole; and the worst cell, by judge:"
)
CARD = "Its card: written answers that differ in one letter (a tie counts half)."
TABLE_3 = (
    "Win rate in percent with a 95% interval over prompts; p: two-sided exact binomial test on "
    "pairs that are no tie, as if pairs of one prompt were independent, as in the paper; Holm: "
    "adjusted over all meetings of the judge."
)
TABLE_4 = "Average win rate over the three baselines, in percent."


def crossed(
    head: Sequence[str],
    rows: Iterable[tuple[Sequence[str], Mapping[str, str]]],
    columns: Sequence[str] | None = None,
) -> Table:
    """Named rows over columns: those of any row, or those given; what a row lacks is a dash."""
    rows = list(rows)
    names = union(row for _, row in rows) if columns is None else columns
    return [*head, *names], [[*who, *(row.get(n, NOTHING) for n in names)] for who, row in rows]


def _named(found: Mapping[str, Found]) -> list[Found]:
    return [{"name": name, **row} for name, row in found.items()]


def counted(row: Found) -> str:
    """Wins, ties and losses."""
    return f"{row['wins']}/{row['ties']}/{row['losses']}"


def rate(row: Found) -> str:
    """A win rate by the paper's rule with its interval."""
    reach = row["paper_interval"]
    tail = f" ({reach[0]:.2f} to {reach[1]:.2f})" if reach else ""
    return f"{number(row['paper_rate'])}{tail}"


def p(row: Found) -> str:
    """The p of a row."""
    return f"{row['p']:.2g}"


WHO: Mapping[str, Column] = {"first": "first", "second": "second"}
HALF: Mapping[str, Column] = {"(W+T/2)/N": "half_rate", "p": p}


MEETINGS: Mapping[str, Column] = {
    **{**WHO, "win rate": rate, "W/T/L": counted, **HALF},
    "Holm": lambda row: f"{row['p_holm']:.2g}",
    **{"like length": "length_controlled", "found": "detectable"},
}
"""Of every pair of methods that a judge has compared."""
PEOPLE = {**WHO, "dimension": "dimension", "W/T/L": counted, "win rate": rate, **HALF}
"""The same of people's votes."""


def whole(meetings: Iterable[Found]) -> Table:
    """What readers say of pairs as a whole."""
    rows = [{**row, **row["whole"]} for row in meetings if row.get("whole")]
    return listed(rows, {**WHO, "W/T/L": counted, **HALF})


def card(found: Mapping[str, Found]) -> Table:
    """A judge's card, by dimension."""
    first = {"known pairs": "name", "pairs": "pairs", "accuracy": "accuracy", "flips": "flip_rate"}
    return listed(_named(found), {**first, "prefers the longer": "prefers_longer"})


def marks(found: Found | None) -> Table:
    """How good replies are, by blind readers; no rows where nobody has read."""
    rows = _named((found or {}).get("quality", {}))
    return listed(rows, {"method": "name", "quality of 5": "mean", "replies read": "replies"})


def strengths(judge: Found) -> Table:
    """Methods by Bradley-Terry points."""
    points, average = judge["strengths"], judge["average"]
    rows = [[name, number(average.get(name)), f"{points[name]:.0f}"] for name in points]
    return ["method", "mean win rate", "Bradley-Terry"] if rows else ["method"], rows


def table_2(found: Found) -> Table:
    """The paper's Table 2: rows over columns, in percent."""
    cells = [
        ([name], {c: percent(r) for c, r in {**row["rates"], "average": row["average"]}.items()})
        for name, row in found["rows"].items()
    ]
    return crossed([""], cells, [*found["columns"], "average"])


def table_3(found: Iterable[Found]) -> Table:
    """Tables 3 and 5: MPD against the other methods, one column per judge."""
    rows = []
    for row in found:
        cells = {}
        for judge, cell in ((j, c) for j, c in row["judges"].items() if c["rate"] is not None):
            reach = cell["interval"]
            span = f" ({percent(reach[0])} to {percent(reach[1])})" if reach else ""
            holm = "" if cell["p_holm"] is None else f", Holm {cell['p_holm']:.2g}"
            cells[judge] = f"{percent(cell['rate'])}{span}, p {p(cell)}{holm}, n {cell['decided']}"
        rows.append(([row["second"]], dict.fromkeys(row["judges"], NOTHING) | cells))
    return crossed(["MPD against"], rows)


def table_4(rows: Iterable[Found]) -> Table:
    """Table 4: spaces and training, in percent."""
    names = {"method": "method", "merging space": "space", "training": "training"}
    average = {"average win rate": lambda row: percent(row["average"])}
    return listed(rows, {**names, "reward": "reward", **average})


def fewer(found: Found) -> str:
    """Which methods have replies to fewer prompts than the others, so that means differ by that."""
    replies = {method: row["replies"] for method, row in found["quality"].items()}
    most, count = max(replies.values(), default=0), found["run"]["count"]
    said = [f"{line(m)} {count * n // most}" for m, n in replies.items() if n < most]
    return f" Some methods have only the first of them: {', '.join(said)}." if said else ""


def heat(shown: Found, judge: str) -> Table:
    """One judge's shares: every method and dimension down, preferences across, in percent.

    A method's worst cells are bold; red is below a third, green above two thirds.
    """
    shares = shares_of(shown, judge)
    rows = []
    for method, by_code in shares.items():
        least = min((share for row in by_code.values() for share in row.values()), default=0.0)
        for name in union(by_code.values()):
            cells = {}
            for code, share in ((c, r[name]) for c, r in by_code.items() if name in r):
                mark = "🟥" if share < 1 / 3 else "🟩" if share > 2 / 3 else "⬜"
                said = f"**{percent(share)}**" if share == least else percent(share)
                cells[code] = f"{mark} {said}"
            rows.append(((method, name), cells))
    return crossed(["method", "dimension"], rows, sorted(union(shares.values())))


def identified(found: Mapping[str, Found]) -> Table:
    """One row per method, one column per judge of single replies."""
    rows = [([m], {NAMES.get(j, j): _mean(c) for j, c in row.items()}) for m, row in found.items()]
    return crossed(["method"], rows)


def _mean(cell: Found) -> str:
    code, name, share = cell["worst"]
    return f"{cell['mean']:.2f}; {number(cell['whole'])}; {share:.2f} ({name} of {code})"


def worst(found: Mapping[str, Found]) -> Table:
    """The weakest dimension of each preference, by method."""
    return crossed(["method"], [([method], _weakest(row)) for method, row in found.items()])


def worst_met(meetings: Sequence[Found]) -> Table:
    """The same of meetings: of MPD's with all others, where it is there."""
    mine = [row for row in meetings if row["first"] == meetings[0]["first"]]
    return crossed(list(WHO), [((r["first"], r["second"]), _weakest(r["worst"])) for r in mine])


def _weakest(found: Found) -> dict[str, str]:
    return {code: f"{name} {share:.2f}" for code, (name, share) in found.items()}


def agreed(found: Found) -> str:
    """How far raters agree, in a sentence."""
    known = [f"{name} {number(value)}" for name, value in found.items() if value is not None]
    alpha = f"Krippendorff's alpha: {', '.join(known)}."
    return alpha if known else "No pair has two raters."


def validation(found: Found) -> Table:
    """The measures on written answers; in brackets forced to name a pole."""
    forced = found["forced"]
    rows = [
        ([code], {n: f"{share:.2f} ({forced[code][n]:.2f})" for n, share in row.items()})
        for code, row in sorted(found["shares"].items())
    ]
    return crossed(["preference"], rows, union(found["shares"].values()))


def by_part(found: Iterable[Found], part: str) -> Table:
    """Rates of each meeting ``by_dimension`` or ``by_code``."""
    rows = [
        ((row["first"], row["second"]), {n: number(r["half_rate"]) for n, r in row[part].items()})
        for row in found
    ]
    return crossed(list(WHO), rows)


def replies(found: Mapping[str, Found]) -> Table:
    """How replies are, by method."""
    rows = [
        (
            [method],
            {
                n.replace("_", " "): number(v, 0 if n in ("replies", "words") else 2)
                for n, v in row.items()
            },
        )
        for method, row in found.items()
    ]
    return crossed(["method"], rows)


def weights(found: Mapping[str, Found]) -> Table:
    """A method's mean weights by position and kind of word, preference by preference."""
    parts = ("by_position", "by_kind")
    rows = [
        (
            (code, ", ".join(row["experts"])),
            {n: " / ".join(map(number, w)) for part in parts for n, w in row[part].items()},
        )
        for code, row in found.items()
    ]
    return crossed(["preference", "experts"], rows)


DRAWN = {"tables": sys.modules[__name__], "judges_of": judges_of, "order_said": order_said}
"""What every template of figures draws with."""
