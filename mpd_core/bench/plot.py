"""Lines as SVG, by hand: figures of the bench must not need the page's plotting library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 560, 320, 64, 44, 34, 16
COLOURS = ("#4f46e5", "#0d9488", "#d97706", "#be185d")
TEXT = 'font-family="system-ui, sans-serif" font-size="12" fill="#333"'
TICKS = 4

Points = Sequence[tuple[float, float]]


def page(title: str, note: str, lines: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """An HTML page with one panel for time and one for throughput of each line."""
    panels = [
        panel(f"{heading}: {name}", {name: [(p["x"], p[key]) for p in points]}, unit)
        for name, points in lines.items()
        if points
        for key, heading, unit in (
            ("ms_per_step", "Time of a step", "ms"),
            ("tokens_per_s", "Throughput", "tokens/s"),
        )
    ]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<body style="font-family: system-ui, sans-serif"><h1>{escape(title)}</h1>'
        f"<p>{escape(note)}</p>{''.join(panels)}</body></html>\n"
    )


def panel(title: str, lines: Mapping[str, Points], unit: str) -> str:
    """One chart: x on a logarithmic scale, y from zero."""
    xs = [x for points in lines.values() for x, _ in points]
    top = max(y for points in lines.values() for _, y in points) or 1.0
    low, high = math.log2(min(xs)), math.log2(max(xs))

    def place(x: float, y: float) -> tuple[float, float]:
        across = (math.log2(x) - low) / ((high - low) or 1.0)
        return (
            LEFT + across * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - y / top * (HEIGHT - BOTTOM - TOP),
        )

    parts = [_text(LEFT, 20, f"{title} [{unit}]", "start")]
    for tick in range(TICKS + 1):
        y = place(min(xs), top * tick / TICKS)[1]
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(_text(LEFT - 8, y + 4, f"{top * tick / TICKS:.3g}", "end"))
    below = HEIGHT - BOTTOM + 18
    parts += [_text(place(x, 0)[0], below, f"{x:g}", "middle") for x in sorted(set(xs))]
    for colour, points in zip(COLOURS, lines.values(), strict=False):
        parts += _line([place(x, y) for x, y in points], colour)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" role="img">{"".join(parts)}</svg>'
    )


def _line(points: Points, colour: str) -> list[str]:
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    dots = [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
    return [f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>', *dots]


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {TEXT}>{escape(text)}</text>'
