"""Lines as SVG, by hand: pages of some kilobytes that open offline.

Plotly would bring four megabytes of script to each stage's curves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 560, 320, 64, 44, 34, 16
COLOUR = "#4f46e5"
TEXT = 'font-family="system-ui, sans-serif" font-size="12" fill="#333"'
TICKS = 4
MOST_MARKS = 24

Points = Sequence[tuple[float, float]]


def document(title: str, body: str, style: str = "body{font-family:system-ui,sans-serif}") -> str:
    """An HTML page that opens offline: ``body`` is HTML, ``title`` text, ``style`` CSS."""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{style}</style><body><h1>{escape(title)}</h1>{body}</body></html>\n"
    )


def page(title: str, note: str, curves: Mapping[str, Points]) -> str:
    """An HTML page with a panel for each curve that has points; its name is the heading."""
    panels = [panel(name, points) for name, points in curves.items() if points]
    return document(title, f"<p>{escape(note)}</p>{''.join(panels)}")


def panel(title: str, points: Points) -> str:
    """One chart; y from zero, or from its least value where that is below zero."""
    xs, ys = zip(*points, strict=True)
    low, high = min(0.0, *ys), max(0.0, *ys) or 1.0
    left, right = min(xs), max(xs)

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - left) / ((right - left) or 1.0)
        up = (y - low) / ((high - low) or 1.0)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (
            HEIGHT - BOTTOM - TOP
        )

    parts = [_text(LEFT, 20, title, "start")]
    for tick in range(TICKS + 1):
        value = low + (high - low) * tick / TICKS
        y = place(left, value)[1]
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(_text(LEFT - 8, y + 4, f"{value:.3g}", "end"))
    below = HEIGHT - BOTTOM + 18
    for x, _ in points[:: math.ceil(len(points) / 8)]:
        parts.append(_text(place(x, low)[0], below, f"{x:g}", "middle"))
    parts += _line([place(x, y) for x, y in points])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" role="img">{"".join(parts)}</svg>'
    )


def _line(points: Points) -> list[str]:
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    dots = [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{COLOUR}"/>' for x, y in points]
    line = f'<path d="M{path}" fill="none" stroke="{COLOUR}" stroke-width="2"/>'
    return [line, *(dots if len(dots) <= MOST_MARKS else [])]


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {TEXT}>{escape(text)}</text>'
