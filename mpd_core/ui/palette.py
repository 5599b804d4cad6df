"""Colours and glyphs of the experts, for any number of dimensions and poles.

A dimension is a hue and a shape, a pole is a lightness and a filling: two experts that can meet in
one reply never differ by colour alone, nor only by a hue that colour-blind eyes confuse.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from urllib.parse import quote

from mpd_core.method.preferences import PreferenceSpace

# Blue, orange, green, magenta first: the order of Okabe and Ito's colour-blind safe set.
_HUES = (255.0, 55.0, 165.0, 335.0, 100.0, 215.0, 25.0, 295.0)
_GOLDEN_ANGLE = 137.508
_SHAPES = ("●○◐◑", "■□▣▤", "▲△◭◮", "◆◇◈❖", "★☆✪✫", "▼▽⧨⧩")
EXTRA_SHAPES = "✚✖✦⬟⬢⬣♦♠"

MAX_MIX = 0.40
"""Share of an expert's colour in a token's background at full weight; text stays readable on it."""


@dataclass(frozen=True)
class Theme:
    """The two colours of a theme that token backgrounds depend on, and how light experts are."""

    surface: str
    text: str
    lightness: tuple[float, float]


LIGHT = Theme(surface="#ffffff", text="#1c1b19", lightness=(0.48, 0.63))
DARK = Theme(surface="#1b1d22", text="#ecebe7", lightness=(0.74, 0.60))


@dataclass(frozen=True)
class Look:
    """How an expert is drawn: the number of its colour slot and its glyph."""

    slot: int
    glyph: str


def looks(space: PreferenceSpace) -> dict[str, Look]:
    """The look of each pole's expert, by name; names that are no pole take slots behind these."""
    places = enumerate(_places(space))
    return {
        pole.name: Look(slot, glyph(d, p))
        for pole, (slot, (d, p)) in zip(space.poles, places, strict=True)
    }


def colours(space: PreferenceSpace, theme: Theme) -> list[str]:
    """Hex colours by slot: every pole's, then those of names that are no pole."""
    extra = [(len(space.dimensions) + k, 0) for k in range(len(EXTRA_SHAPES))]
    return [_colour(d, p, theme) for d, p in [*_places(space), *extra]]


def css(space: PreferenceSpace) -> str:
    """Custom properties of both themes, one rule a slot that picks its colour, and one a toggle."""
    places = _places(space)
    shapes = [*(glyph(d, p) for d, p in places), *EXTRA_SHAPES]
    slots = [
        f'[data-slot="{slot}"] {{ --c: var(--mpd-e{slot}); --g: var(--mpd-g{slot}); }}'
        for slot in range(len(shapes))
    ]
    toggles = [
        f"#dimension-{d} label:nth-of-type({p + 1}) {{ --c: var(--mpd-e{slot}); }}"
        for slot, (d, p) in enumerate(places)
    ]
    light = _properties(":root", LIGHT, colours(space, LIGHT), shapes)
    dark = _properties(".dark", DARK, colours(space, DARK), shapes)
    return "\n".join([light, dark, *slots, *toggles])


def _places(space: PreferenceSpace) -> list[tuple[int, int]]:
    """Dimension and pole of each slot that is a pole's."""
    return [(d, p) for d, dim in enumerate(space.dimensions) for p in range(len(dim.poles))]


def glyph(dimension: int, pole: int) -> str:
    """Shape by dimension, filling by pole; beyond the shapes a digit and a letter."""
    if dimension < len(_SHAPES) and pole < len(_SHAPES[dimension]):
        return _SHAPES[dimension][pole]
    return f"{dimension + 1}{chr(ord('a') + pole)}"


def _colour(dimension: int, pole: int, theme: Theme) -> str:
    known = dimension < len(_HUES)
    hue = _HUES[dimension] if known else (12 + dimension * _GOLDEN_ANGLE) % 360
    first, other = theme.lightness
    lightness = first if pole == 0 else other - 0.03 * ((pole - 1) % 3)
    return _oklch(lightness, 0.135, hue)


def _properties(selector: str, theme: Theme, slots: list[str], shapes: list[str]) -> str:
    body = "".join(
        f" --mpd-e{slot}: {colour}; --mpd-g{slot}: {_picture(shape, colour)};"
        for slot, (colour, shape) in enumerate(zip(slots, shapes, strict=True))
    )
    return (
        f"{selector} {{ --mpd-surface: {theme.surface}; --mpd-text: {theme.text};"
        f" --mpd-mix: {MAX_MIX:.0%};{body} }}"
    )


def _picture(shape: str, colour: str) -> str:
    """A glyph as an image: as a background it takes part in no line of text."""
    size = 18 // max(1, len(shape))
    drawn = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 18 18">'
        f'<text x="9" y="15" font-size="{size}" text-anchor="middle" fill="{colour}">{shape}</text>'
        "</svg>"
    )
    return f'url("data:image/svg+xml,{quote(drawn)}")'


def _oklch(lightness: float, chroma: float, hue: float) -> str:
    """OKLCH to hex sRGB (Ottosson 2020); chroma shrinks until the colour is in gamut."""
    while True:
        a = chroma * math.cos(math.radians(hue))
        b = chroma * math.sin(math.radians(hue))
        long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
        medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
        short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
        linear = (
            4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
            -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
            -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
        )
        if chroma < 0.01 or all(-1e-3 <= value <= 1.001 for value in linear):
            channels = (_gamma(min(1.0, max(0.0, value))) for value in linear)
            return "#" + "".join(f"{round(value * 255):02x}" for value in channels)
        chroma -= 0.005


def _gamma(linear: float) -> float:
    return 12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055
