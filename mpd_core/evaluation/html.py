"""A run's figures as one HTML page that opens offline: heat tables, and win rates as intervals.

Every name that comes from a file is escaped; there is no script in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from statistics import fmean
from typing import Any

from mpd_core.charts import document
from mpd_core.evaluation.cells import Table
from mpd_core.evaluation.identified import judges_of, shares_of
from mpd_core.evaluation.paper_text import TABLE_3, TABLE_4, order_said, table_3, table_4
from mpd_core.evaluation.plots import STYLE, bars, forest
from mpd_core.evaluation.short_text import CARD, NAMES, card, fewer, quality, whole


def html(found: Mapping[str, Any]) -> str:
    """The page; ``found`` is what ``report`` computes."""
    body = [
        f"<p>{found['run']['count']} prompts ({escape(found['run']['prompts'])})."
        f"{escape(fewer(found))}</p>",
        *_identification(found),
        *(part for name in found["judges"] for part in _judge(found, name)),
        *_table_3(found["paper"]["table_3"]),
        *_readers(found.get("readers")),
        *_people(found["people"]),
        *_weights(found["weights"]),
    ]
    return document(f"Evaluation of {found['run']['pack']}", "".join(body), STYLE)


def _identification(found: Mapping[str, Any]) -> Iterator[str]:
    yield "<h2>Which poles the replies show</h2><p>Share of replies in which a judge "
    yield "that sees one reply alone names the chosen pole; neither counts half. Framed: the worst "
    yield f"cell of a method. The text measures: {escape(found['validation']['said'])} Cell by "
    yield "cell they reach there:</p>"
    yield _heat(found["validation"]["shares"])
    shown = found["identification"]
    for judge in judges_of(shown):
        yield f"<h2>By the judge {escape(NAMES.get(judge, judge))}</h2>"
        for method, shares in shares_of(shown, judge).items():
            cells = [share for row in shares.values() for share in row.values()]
            if cells:
                yield f"<h3>{escape(method)}: mean {fmean(cells):.2f}</h3>{_heat(shares)}"


def _heat(shares: Mapping[str, Mapping[str, float]]) -> str:
    """Dimensions down, preferences across; red at 0, white at a half, green at 1."""
    names = list(dict.fromkeys(name for row in shares.values() for name in row))
    codes = sorted(shares)
    least = min((share for row in shares.values() for share in row.values()), default=0.0)
    head = "".join(f'<th scope="col">{escape(code)}</th>' for code in codes)
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(_cell(shares[code].get(name), least) for code in codes)
        + "</tr>"
        for name in names
    )
    return f"<table><tr><th></th>{head}</tr>{rows}</table>"


def _cell(share: float | None, least: float) -> str:
    if share is None:
        return "<td></td>"
    hue, strength = (150 if share >= 0.5 else 25), abs(share - 0.5) * 2
    worst = ' class="worst"' if share == least else ""
    colour = f"oklch({97 - 20 * strength:.0f}% {0.13 * strength:.3f} {hue})"
    return f'<td{worst} style="background:{colour}">{share:.2f}</td>'


def _judge(found: Mapping[str, Any], name: str) -> Iterator[str]:
    judge, tables = found["judges"][name], found["paper"]["judges"][name]
    yield f"<h2>Who wins, by the judge {escape(name)}</h2><p>{escape(judge['kind'])} Win rate of "
    yield "row over column by the paper's rule (its Table 2).</p>"
    yield _table_2(tables["table_2"])
    yield f"<p>{escape(order_said(tables['order'], judge['meetings']))}</p>"
    yield "<h3>Every meeting</h3><p>Win rate of the first, with a 95% interval over prompts.</p>"
    yield forest([row for row in judge["meetings"] if row["paper_rate"] is not None])
    parts = (
        (TABLE_4, table_4(tables["table_4"])),
        (CARD, card(judge["card"])),
        ("Better as a whole:", whole(judge["meetings"])),
    )
    yield from (f"<p>{escape(said)}</p>{_table(drawn)}" for said, drawn in parts if drawn[1])


def _table(drawn: Table) -> str:
    """Text in cells, as the same table has it in Markdown."""
    head, rows = drawn
    top = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    lines = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        + "</tr>"
        for name, *cells in rows
    )
    return f"<table><tr>{top}</tr>{lines}</table>"


def _table_2(found: Mapping[str, Any]) -> str:
    head = "".join(
        f'<th scope="col">{escape(name)}</th>' for name in (*found["columns"], "average")
    )
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(
            _cell(share, -1.0)
            for share in (*(row["rates"].get(c) for c in found["columns"]), row["average"])
        )
        + "</tr>"
        for name, row in found["rows"].items()
    )
    return f"<table><tr><th></th>{head}</tr>{rows}</table>"


def _table_3(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """With p and Holm's p, which a picture does not tell."""
    if rows:
        yield f"<h2>MPD against each method</h2><p>{escape(TABLE_3)}</p>{_table(table_3(rows))}"


def _readers(found: Mapping[str, Any] | None) -> Iterator[str]:
    if found and found["quality"]:
        yield f"<h2>How good replies are, by blind readers</h2>{_table(quality(found))}"


def _people(found: Mapping[str, Any]) -> Iterator[str]:
    rows = [row for row in found["meetings"] if row["paper_rate"] is not None]
    if rows:
        yield f"<h2>Who wins, by people</h2><p>{found['votes']} votes by {found['raters']} raters."
        yield "</p>"
        yield forest([{**row, "second": f"{row['second']}, {row['dimension']}"} for row in rows])


def _weights(found: Mapping[str, Any]) -> Iterator[str]:
    """Mean weights by position and kind of word, a picture a preference."""
    for method, rows in found.items():
        yield f"<h2>Where the weights of {escape(method)} move</h2>"
        for code, row in rows.items():
            parts = [*row["by_position"].items(), *row["by_kind"].items()]
            yield f"<h3>{escape(code)}, {row['tokens']} tokens</h3>"
            yield bars(parts, row["experts"], f"Mean weights of {method} for {code}")
