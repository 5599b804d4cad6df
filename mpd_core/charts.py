"""Line charts as SVG, by hand: pages of some kilobytes that open offline.

Plotly would bring four megabytes of script to each stage's curves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from markupsafe import Markup

from mpd_core.rendering import rendered

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 640, 360, 64, 56, 34, 16
TICKS, LABELS = 4, 8

Points = Sequence[tuple[float, float]]


def line_chart(title: str, curves: Mapping[str, Points], *, powers: bool = False) -> Markup:
    """Curves over one pair of axes; the legend names those that have a name.

    y begins at zero, or at its least value where that is below zero. With ``powers`` both axes are
    logarithmic, base 2, and all numbers are above 0.
    """
    xs = sorted({x for points in curves.values() for x, _ in points})
    ys = [y for points in curves.values() for _, y in points]
    if powers:
        low, high = math.floor(math.log2(min(ys))), math.ceil(math.log2(max(ys)))
        ticks = [2.0**power for power in range(low, high + 1)]
    else:
        least, most = min(0.0, *ys), max(0.0, *ys) or 1.0
        ticks = [least + (most - least) * k / TICKS for k in range(TICKS + 1)]
    scale = math.log2 if powers else float
    across = _axis(scale, xs, LEFT, WIDTH - RIGHT)
    up = _axis(scale, ticks, HEIGHT - BOTTOM, TOP)
    drawn = rendered(
        "chart.html",
        title=title,
        size=(WIDTH, HEIGHT),
        frame=(LEFT, WIDTH - RIGHT, HEIGHT - BOTTOM),
        rows=[(up(tick), f"{tick:.3g}") for tick in ticks],
        columns=[(across(x), f"{x:g}") for x in xs[:: math.ceil(len(xs) / LABELS)]],
        curves={name: [(across(x), up(y)) for x, y in curve] for name, curve in curves.items()},
    )
    return Markup(drawn)


def _axis(
    scale: Callable[[float], float], values: Sequence[float], start: float, end: float
) -> Callable[[float], float]:
    """Where a value lies between two ends, which the first and the last of these have."""
    low, high = scale(values[0]), scale(values[-1])
    return lambda value: round(start + (end - start) * (scale(value) - low) / (high - low or 1), 1)
