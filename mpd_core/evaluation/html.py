"""A run's figures as one HTML page that opens offline: heat tables, and win rates as intervals.

Every name that comes from a file is escaped; there is no script in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from statistics import fmean
from typing import Any

WIDTH, LEFT, RIGHT, ROW = 720, 300, 90, 24
STYLE = (
    "body{font:15px system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;margin:.5rem 0 1.5rem}"
    "th,td{padding:.25rem .6rem;text-align:right;border:1px solid #fff}"
    "th{font-weight:600;text-align:left}figure{margin:0}"
    ".worst{outline:2px solid #222;outline-offset:-2px;font-weight:700}"
)


def html(found: Mapping[str, Any]) -> str:
    """The page; ``found`` is what ``report`` computes."""
    title = f"Evaluation of {escape(found['run']['pack'])}"
    body = [
        f"<h1>{title}</h1>",
        f"<p>{found['run']['count']} prompts ({escape(found['run']['prompts'])}).</p>",
        *_identification(found),
        *(part for name, judge in found["judges"].items() for part in _judge(name, judge)),
    ]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style><body>{''.join(body)}</body></html>\n"
    )


def _identification(found: Mapping[str, Any]) -> Iterator[str]:
    yield "<h2>Which poles the replies show</h2><p>Share of replies in which the text measures "
    yield "name the chosen pole; neither counts half. Framed: the worst cell of a method. "
    yield f"{escape(found['validation']['kind'])} On held-out written answers they reach:</p>"
    yield _heat(found["validation"]["shares"])
    for method, rows in found["identification"].items():
        shares = {
            code: {n: cell["measure"] for n, cell in row.items()} for code, row in rows.items()
        }
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
    hue, strength = (130 if share >= 0.5 else 5), abs(share - 0.5) * 2
    worst = ' class="worst"' if share == least else ""
    return (
        f'<td{worst} style="background:hsl({hue} 60% {97 - 35 * strength:.0f}%)">{share:.2f}</td>'
    )


def _judge(name: str, judge: Mapping[str, Any]) -> Iterator[str]:
    yield f"<h2>Who wins, by the judge {escape(name)}</h2><p>{escape(judge['kind'])} Win rate of "
    yield "the first of each two by the paper's rule, with a 95% interval over prompts.</p>"
    yield forest([row for row in judge["meetings"] if row["paper_rate"] is not None])


def forest(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line a meeting: its rate, its interval, and where half of the pairs would be."""
    height = ROW * (len(rows) + 1)
    middle = _across(0.5)
    parts = [f'<path d="M{middle:.1f} 4V{height - ROW}" stroke="#999" stroke-dasharray="4 3"/>']
    for index, row in enumerate(rows):
        y = ROW * index + ROW / 2
        low, high = row["paper_interval"] or (row["paper_rate"], row["paper_rate"])
        label = escape(f"{row['first']} against {row['second']}")
        parts += [
            f'<text x="{LEFT - 12}" y="{y + 4:.1f}" text-anchor="end">{label}</text>',
            f'<path d="M{_across(low):.1f} {y:.1f}H{_across(high):.1f}" stroke="#4f46e5" '
            'stroke-width="3"/>',
            f'<circle cx="{_across(row["paper_rate"]):.1f}" cy="{y:.1f}" r="5" fill="#4f46e5"/>',
            f'<text x="{WIDTH - RIGHT + 16}" y="{y + 4:.1f}">{row["paper_rate"]:.2f}</text>',
        ]
    for tick in (0.0, 0.5, 1.0):
        parts.append(
            f'<text x="{_across(tick):.1f}" y="{height - 6}" text-anchor="middle">{tick:g}</text>'
        )
    return (
        f'<figure><svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img" font-size="13" '
        f'aria-label="Win rates with intervals">{"".join(parts)}</svg></figure>'
    )


def _across(share: float) -> float:
    return LEFT + share * (WIDTH - LEFT - RIGHT)
