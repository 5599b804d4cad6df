"""Plots of a report as self-contained SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

WIDTH, LEFT, RIGHT, ROW = 720, 300, 90, 24
COLOURS = ("#4f46e5", "#d97706", "#059669", "#db2777", "#0891b2", "#65a30d", "#7c3aed", "#dc2626")
"""Of experts, in the order of a reply's poles."""


def forest(rows: Sequence[Mapping[str, Any]]) -> str:
    """Forest plot: one line per pair of methods, with rate and interval, and a line at one half."""
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
    return _figure(height, "".join(parts), "Win rates with intervals")


def _across(share: float) -> float:
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def bars(rows: Sequence[tuple[str, Sequence[float]]], names: Sequence[str], said: str) -> str:
    """One line a label, its weights side by side over the whole width, with a legend.

    Args:
        rows: labels with weights that add up to 1.
        names: what the weights are of.
        said: the picture in words, for those who do not see it.
    """
    parts, width = [], WIDTH - LEFT - RIGHT
    for index, (label, weights) in enumerate(rows):
        y, x = ROW * (index + 1), float(LEFT)
        parts.append(f'<text x="{LEFT - 12}" y="{y + 15}" text-anchor="end">{escape(label)}</text>')
        for k, weight in enumerate(weights):
            span = weight * width
            parts.append(
                f'<rect x="{x:.1f}" y="{y + 3}" width="{span:.1f}" height="{ROW - 6}" '
                f'fill="{COLOURS[k % len(COLOURS)]}"/>'
            )
            if weight >= 0.08:
                parts.append(
                    f'<text x="{x + span / 2:.1f}" y="{y + 15}" text-anchor="middle" '
                    f'fill="#fff" font-size="11">{weight:.2f}</text>'
                )
            x += span
    step = width / max(1, len(names))
    for k, name in enumerate(names):
        at = LEFT + k * step
        parts.append(
            f'<rect x="{at:.1f}" y="4" width="12" height="12" fill="{COLOURS[k % len(COLOURS)]}"/>'
            f'<text x="{at + 17:.1f}" y="15">{escape(name)}</text>'
        )
    height = ROW * (len(rows) + 1)
    return _figure(height, "".join(parts), said)


def _figure(height: int, content: str, said: str) -> str:
    return (
        f'<figure><svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img" font-size="13" '
        f'aria-label="{escape(said)}">{content}</svg></figure>'
    )


def lines(curves: Mapping[str, Sequence[tuple[float, float]]], said: str) -> str:
    """Curves over one pair of logarithmic axes, base 2, with a legend.

    Args:
        curves: points of each, all above 0.
        said: the picture in words, and its heading.
    """
    points = [point for curve in curves.values() for point in curve]
    height, left, bottom = 360, 60, 50
    spans = [_span([point[axis] for point in points]) for axis in (0, 1)]

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = (
            (math.log2(value) - low) / (high - low)
            for value, (low, high) in zip((x, y), spans, strict=True)
        )
        return left + across * (WIDTH - left - 20), height - bottom - up * (height - bottom - 40)

    parts = [f'<text x="{left}" y="18" font-weight="600">{escape(said)}</text>']
    for x in sorted({point[0] for point in points}):
        at = place(x, 2 ** spans[1][0])[0]
        parts.append(
            f'<text x="{at:.1f}" y="{height - bottom + 20}" text-anchor="middle">{x:g}</text>'
        )
    for power in range(math.floor(spans[1][0]), math.ceil(spans[1][1]) + 1):
        y = place(2 ** spans[0][0], 2.0**power)[1]
        parts.append(f'<path d="M{left} {y:.1f}H{WIDTH - 20}" stroke="#ddd"/>')
        parts.append(
            f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{2.0**power:g}</text>'
        )
    for k, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[k % len(COLOURS)]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in (place(*point) for point in curve))
        parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2.5"/>')
        at = left + k * 220
        parts.append(
            f'<rect x="{at}" y="{height - 20}" width="12" height="12" fill="{colour}"/>'
            f'<text x="{at + 18}" y="{height - 9}">{escape(name)}</text>'
        )
    return _figure(height, "".join(parts), said)


def _span(values: Sequence[float]) -> tuple[float, float]:
    """Lowest and highest power of 2, at least one apart."""
    low, high = math.log2(min(values)), math.log2(max(values))
    return (low, high) if high > low else (low, low + 1)
