"""Plots of a report as self-contained SVG."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

WIDTH, LEFT, RIGHT, ROW = 720, 300, 90, 24
COLOURS = ("#4f46e5", "#d97706", "#059669", "#db2777", "#0891b2", "#65a30d", "#7c3aed", "#dc2626")
"""Of experts, in the order of a reply's poles."""
STYLE = (
    "body{font:15px system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;margin:.5rem 0 1.5rem}"
    "th,td{padding:.25rem .6rem;text-align:right;border:1px solid #fff}"
    "th{font-weight:600;text-align:left}figure{margin:0}"
    ".worst{outline:2px solid #222;outline-offset:-2px;font-weight:700}"
)
"""Of the pages that hold plots."""


def _tag(kind: str, said: str | None = None, **attributes: object) -> str:
    """One element; ``text_anchor`` is the attribute text-anchor."""
    inside = "".join(f' {name.replace("_", "-")}="{v}"' for name, v in attributes.items())
    return f"<{kind}{inside}/>" if said is None else f"<{kind}{inside}>{escape(said)}</{kind}>"


def _text(said: str, x: object, y: object, **attributes: object) -> str:
    return _tag("text", said, x=x, y=y, **attributes)


def _figure(height: int, content: Sequence[str], said: str) -> str:
    return (
        f'<figure><svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img" font-size="13" '
        f'aria-label="{escape(said)}">{"".join(content)}</svg></figure>'
    )


def _legend(k: int, name: str, x: object, y: int, text_x: object, text_y: int) -> Iterator[str]:
    yield _tag("rect", x=x, y=y, width=12, height=12, fill=COLOURS[k % len(COLOURS)])
    yield _text(name, text_x, text_y)


def forest(rows: Sequence[Mapping[str, Any]]) -> str:
    """Forest plot: one line per pair of methods, with rate and interval, and a line at one half."""

    def across(share: float) -> str:
        return f"{LEFT + share * (WIDTH - LEFT - RIGHT):.1f}"

    height = ROW * (len(rows) + 1)
    middle = f"M{across(0.5)} 4V{height - ROW}"
    parts = [_tag("path", d=middle, stroke="#999", stroke_dasharray="4 3")]
    for index, row in enumerate(rows):
        y, rate = ROW * index + ROW / 2, row["paper_rate"]
        low, high = row["paper_interval"] or (rate, rate)
        label, below = f"{row['first']} against {row['second']}", f"{y + 4:.1f}"
        span = f"M{across(low)} {y:.1f}H{across(high)}"
        parts += [
            _text(label, LEFT - 12, below, text_anchor="end"),
            _tag("path", d=span, stroke=COLOURS[0], stroke_width=3),
            _tag("circle", cx=across(rate), cy=f"{y:.1f}", r=5, fill=COLOURS[0]),
            _text(f"{rate:.2f}", WIDTH - RIGHT + 16, below),
        ]
    for tick in (0.0, 0.5, 1.0):
        parts.append(_text(f"{tick:g}", across(tick), height - 6, text_anchor="middle"))
    return _figure(height, parts, "Win rates with intervals")


def bars(rows: Sequence[tuple[str, Sequence[float]]], names: Sequence[str], said: str) -> str:
    """One line a label, its weights, which add up to 1, side by side over the whole width.

    The legend says in ``names`` what they are of; ``said`` is the picture in words, for those who
    do not see it.
    """
    parts, width = [], WIDTH - LEFT - RIGHT
    for index, (label, weights) in enumerate(rows):
        y, x = ROW * (index + 1), float(LEFT)
        parts.append(_text(label, LEFT - 12, y + 15, text_anchor="end"))
        for k, weight in enumerate(weights):
            span, colour = weight * width, COLOURS[k % len(COLOURS)]
            size = f"{span:.1f}"
            parts.append(
                _tag("rect", x=f"{x:.1f}", y=y + 3, width=size, height=ROW - 6, fill=colour)
            )
            if weight >= 0.08:
                look = {"text_anchor": "middle", "fill": "#fff", "font_size": "11"}
                middle = f"{x + span / 2:.1f}"
                parts.append(_text(f"{weight:.2f}", middle, y + 15, **look))
            x += span
    for k, name in enumerate(names):
        at = LEFT + k * width / max(1, len(names))
        parts += _legend(k, name, f"{at:.1f}", 4, f"{at + 17:.1f}", 15)
    return _figure(ROW * (len(rows) + 1), parts, said)


def lines(curves: Mapping[str, Sequence[tuple[float, float]]], said: str) -> str:
    """Curves over one pair of logarithmic axes, base 2, with a legend; all numbers are above 0.

    ``said`` is the picture in words, and its heading.
    """
    points = [point for curve in curves.values() for point in curve]
    height, left, bottom = 360, 60, 50
    spans = []  # lowest and highest power of 2 by axis, at least one apart
    for values in zip(*points, strict=True):
        low, high = math.log2(min(values)), math.log2(max(values))
        spans.append((low, high if high > low else low + 1))

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = (
            (math.log2(value) - low) / (high - low)
            for value, (low, high) in zip((x, y), spans, strict=True)
        )
        return left + across * (WIDTH - left - 20), height - bottom - up * (height - bottom - 40)

    parts = [_text(said, left, 18, font_weight=600)]
    for x in sorted({point[0] for point in points}):
        at, below = f"{place(x, 2 ** spans[1][0])[0]:.1f}", height - bottom + 20
        parts.append(_text(f"{x:g}", at, below, text_anchor="middle"))
    for power in range(math.floor(spans[1][0]), math.ceil(spans[1][1]) + 1):
        y = place(2 ** spans[0][0], 2.0**power)[1]
        parts.append(_tag("path", d=f"M{left} {y:.1f}H{WIDTH - 20}", stroke="#ddd"))
        parts.append(_text(f"{2.0**power:g}", left - 8, f"{y + 4:.1f}", text_anchor="end"))
    for k, (name, curve) in enumerate(curves.items()):
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in (place(*point) for point in curve))
        colour = COLOURS[k % len(COLOURS)]
        parts.append(_tag("path", d=f"M{path}", fill="none", stroke=colour, stroke_width=2.5))
        start = left + k * 220
        parts += _legend(k, name, start, height - 20, start + 18, height - 9)
    return _figure(height, parts, said)
