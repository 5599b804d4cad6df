"""The paper's tables as Markdown, for the report and for README."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from mpd_core.evaluation.cells import NOTHING, Table, percent, table
from mpd_core.evaluation.paper import ORDER

SURE = 0.05
"""Holm's p up to which neighbours are told apart."""


TABLE_3 = (
    "Win rate in percent with a 95% interval over prompts; p: two-sided exact binomial test on "
    "pairs that are no tie, as if pairs of one prompt were independent, as in the paper; Holm: "
    "adjusted over all meetings of the judge."
)

TABLE_4 = "Average win rate over the three baselines, in percent."


def paper_tables(found: Mapping[str, Any]) -> Iterator[str]:
    """All tables of ``found["paper"]``, judge by judge."""
    for name, tables in found["paper"]["judges"].items():
        kind = found["judges"][name]["kind"]
        yield f"### Table 2, by the judge '{name}'"
        yield ""
        yield (
            f"Win rate of row over column in percent. {kind} Average: of baselines and MPD over "
            "all other columns, of others over the three baselines."
        )
        yield ""
        yield from table_2(tables["table_2"])
        yield order_said(tables["order"], found["judges"][name]["meetings"])
        yield ""
        yield f"### Table 4, by the judge '{name}'"
        yield ""
        yield f"{TABLE_4} {kind}"
        yield ""
        yield from table(*table_4(tables["table_4"]))
    yield from _table_3(found)


def table_2(found: Mapping[str, Any]) -> list[str]:
    """Rows over columns, in percent."""
    columns = found["columns"]
    rows = [
        [name, *(percent(row["rates"].get(c)) for c in columns), percent(row["average"])]
        for name, row in found["rows"].items()
    ]
    return table(["", *columns, "average"], rows)


def _table_3(found: Mapping[str, Any]) -> Iterator[str]:
    head, rows = table_3(found["paper"]["table_3"])
    if not rows:
        return
    yield "### Tables 3 and 5: MPD against each method, by judge"
    yield ""
    yield TABLE_3
    yield ""
    yield from table(head, rows)
    for name in head[1:]:
        if name in found["judges"]:
            yield f"- {name}: {found['judges'][name]['kind']}"
    yield ""


def table_3(found: Sequence[Mapping[str, Any]]) -> Table:
    """MPD against the other methods, one column per judge."""
    names = list(dict.fromkeys(name for row in found for name in row["judges"]))
    rows = [[row["second"], *(_cell_3(row["judges"].get(n)) for n in names)] for row in found]
    return ["MPD against", *names], rows


def _cell_3(found: Mapping[str, Any] | None) -> str:
    """Of Table 3: rate, interval, p, Holm's p, and decided pairs."""
    if found is None or found["rate"] is None:
        return NOTHING
    reach = found["interval"]
    span = f" ({percent(reach[0])} to {percent(reach[1])})" if reach else ""
    holm = "" if found["p_holm"] is None else f", Holm {found['p_holm']:.2g}"
    return f"{percent(found['rate'])}{span}, p {found['p']:.2g}{holm}, n {found['decided']}"


def table_4(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Spaces and training, in percent."""
    head = ["method", "merging space", "training", "reward", "average win rate"]
    names = ("method", "space", "training", "reward")
    return head, [[*(row[n] for n in names), percent(row["average"])] for row in rows]


def order_said(found: Sequence[str], meetings: Sequence[Mapping[str, Any]]) -> str:
    """The order as found, beside the paper's; and which neighbours chance may have put so."""
    known = [name for name in ORDER if name in found]
    same = "as in the paper" if list(found) == known else f"in the paper {' < '.join(known)}"
    told = {frozenset((m["first"], m["second"])) for m in meetings if m["p_holm"] <= SURE}
    chance = [f"{one} and {other}" for one, other in pairwise(found) if {one, other} not in told]
    said = f"From worst to best by Bradley-Terry: {' < '.join(found)} ({same})."
    if not chance:
        return said
    doubt = f"Chance alone may order {', '.join(chance)} (Holm's p of their meeting over {SURE:g})."
    return f"{said} {doubt}"
