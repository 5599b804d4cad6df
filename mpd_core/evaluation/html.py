"""A run's figures as one HTML page that opens offline: heat tables, and win rates as intervals.

Every name that comes from a file is escaped; there is no script in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from statistics import fmean

from mpd_core.charts import document
from mpd_core.evaluation import Found, tables
from mpd_core.evaluation.cells import Table, union
from mpd_core.evaluation.identified import judges_of, shares_of
from mpd_core.evaluation.paper import order_said
from mpd_core.evaluation.plots import STYLE, bars, forest


def html(found: Found) -> str:
    """The page; ``found`` is what ``report`` computes."""
    run, paper = found["run"], found["paper"]
    body = [
        f"<p>{run['count']} prompts ({escape(run['prompts'])}).{escape(tables.fewer(found))}</p>",
        *_identification(found),
        *(part for name in found["judges"] for part in _judge(found, name)),
        *_section("MPD against each method", tables.table_3(paper["table_3"]), tables.TABLE_3),
        *_section("How good replies are, by blind readers", tables.marks(found.get("readers")), ""),
        *_people(found["people"]),
        *_weights(found["weights"]),
    ]
    return document(f"Evaluation of {run['pack']}", "".join(body), STYLE)


def _identification(found: Found) -> Iterator[str]:
    yield "<h2>Which poles the replies show</h2><p>Share of replies in which a judge "
    yield "that sees one reply alone names the chosen pole; neither counts half. Framed: the worst "
    yield f"cell of a method. The text measures: {escape(found['validation']['said'])} Cell by "
    yield "cell they reach there:</p>"
    yield _shares(found["validation"]["shares"])
    shown = found["identification"]
    for judge in judges_of(shown):
        yield f"<h2>By the judge {escape(tables.NAMES.get(judge, judge))}</h2>"
        for method, shares in shares_of(shown, judge).items():
            cells = [share for row in shares.values() for share in row.values()]
            if cells:
                yield f"<h3>{escape(method)}: mean {fmean(cells):.2f}</h3>{_shares(shares)}"


def _judge(found: Found, name: str) -> Iterator[str]:
    judge, drawn = found["judges"][name], found["paper"]["judges"][name]
    columns, rows = (*drawn["table_2"]["columns"], "average"), drawn["table_2"]["rows"]
    yield f"<h2>Who wins, by the judge {escape(name)}</h2><p>{escape(judge['kind'])} Win rate of "
    yield "row over column by the paper's rule (its Table 2).</p>"
    yield _heat(
        columns, {n: {**row["rates"], "average": row["average"]} for n, row in rows.items()}
    )
    yield f"<p>{escape(order_said(drawn['order'], judge['meetings']))}</p>"
    yield "<h3>Every meeting</h3><p>Win rate of the first, with a 95% interval over prompts.</p>"
    yield forest([row for row in judge["meetings"] if row["paper_rate"] is not None])
    for said, part in (
        (tables.TABLE_4, tables.table_4(drawn["table_4"])),
        (tables.CARD, tables.card(judge["card"])),
        ("Better as a whole:", tables.whole(judge["meetings"])),
    ):
        if part[1]:
            yield f"<p>{escape(said)}</p>{_table(part)}"


def _section(title: str, part: Table, said: str) -> Iterator[str]:
    if part[1]:
        yield f"<h2>{title}</h2>{f'<p>{escape(said)}</p>' if said else ''}{_table(part)}"


def _people(found: Found) -> Iterator[str]:
    rows = [row for row in found["meetings"] if row["paper_rate"] is not None]
    if rows:
        said = f"{found['votes']} votes by {found['raters']} raters."
        yield f"<h2>Who wins, by people</h2><p>{said}</p>"
        yield forest([{**row, "second": f"{row['second']}, {row['dimension']}"} for row in rows])


def _weights(found: Found) -> Iterator[str]:
    """Mean weights by position and kind of word, a picture a preference."""
    for method, rows in found.items():
        yield f"<h2>Where the weights of {escape(method)} move</h2>"
        for code, row in rows.items():
            parts = [*row["by_position"].items(), *row["by_kind"].items()]
            yield f"<h3>{escape(code)}, {row['tokens']} tokens</h3>"
            yield bars(parts, row["experts"], f"Mean weights of {method} for {code}")


def _table(part: Table) -> str:
    """Text in cells, as the same table has it in Markdown."""
    (first, *others), rows = part
    cells = ((name, [f"<td>{escape(cell)}</td>" for cell in row]) for name, *row in rows)
    return _drawn(f'<th scope="col">{escape(first)}</th>', others, cells)


def _shares(shares: Mapping[str, Mapping[str, float]]) -> str:
    """Dimensions down, preferences across; the least is framed."""
    names = union(shares.values())
    least = min((share for row in shares.values() for share in row.values()), default=0.0)
    by_name = {name: {code: row.get(name) for code, row in shares.items()} for name in names}
    return _heat(sorted(shares), by_name, least)


def _heat(columns: Sequence[str], rows: Mapping[str, Found], least: float = -1.0) -> str:
    """Red at 0, white at a half, green at 1; what is ``least`` is framed."""
    cells = ((name, [_cell(row.get(c), least) for c in columns]) for name, row in rows.items())
    return _drawn("<th></th>", columns, cells)


def _cell(share: float | None, least: float) -> str:
    if share is None:
        return "<td></td>"
    hue, strength = (150 if share >= 0.5 else 25), abs(share - 0.5) * 2
    worst = ' class="worst"' if share == least else ""
    colour = f"oklch({97 - 20 * strength:.0f}% {0.13 * strength:.3f} {hue})"
    return f'<td{worst} style="background:{colour}">{share:.2f}</td>'


def _drawn(corner: str, columns: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]]) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    lines = (f'<tr><th scope="row">{escape(n)}</th>{"".join(cells)}</tr>' for n, cells in rows)
    return f"<table><tr>{corner}{head}</tr>{''.join(lines)}</table>"
