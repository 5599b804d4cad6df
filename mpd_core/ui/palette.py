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
_EXTRA_SLOTS = len(EXTRA_SHAPES)

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


def look(space: PreferenceSpace, expert: str, position: int = 0) -> Look:
    """The look of an expert by name; a name that is no pole takes an extra slot by position."""
    slot = 0
    for d, dimension in enumerate(space.dimensions):
        for p, pole in enumerate(dimension.poles):
            if pole.name == expert:
                return Look(slot, glyph(d, p))
            slot += 1
    extra = position % _EXTRA_SLOTS
    return Look(slot + extra, EXTRA_SHAPES[extra])


def colours(space: PreferenceSpace, theme: Theme) -> list[str]:
    """Hex colours by slot: every pole's, then those of names that are no pole."""
    poles = [(d, p) for d, dim in enumerate(space.dimensions) for p in range(len(dim.poles))]
    extra = [(len(space.dimensions) + k, 0) for k in range(_EXTRA_SLOTS)]
    return [_colour(d, p, theme) for d, p in poles + extra]


def css(space: PreferenceSpace) -> str:
    """Custom properties of both themes, and one rule a slot that picks its colour."""
    slots = range(len(colours(space, LIGHT)))
    rules = [
        _properties(":root", LIGHT, colours(space, LIGHT), glyphs(space)),
        _properties(".dark", DARK, colours(space, DARK), glyphs(space)),
        *(
            f'[data-slot="{slot}"] {{ --c: var(--mpd-e{slot}); --g: var(--mpd-g{slot}); }}'
            for slot in slots
        ),
    ]
    slot = 0
    for d, dimension in enumerate(space.dimensions):
        for p in range(len(dimension.poles)):
            rules.append(
                f"#dimension-{d} label:nth-of-type({p + 1}) {{ --c: var(--mpd-e{slot}); }}"
            )
            slot += 1
    return "\n".join(rules)


def contrast(first: str, second: str) -> float:
    """WCAG contrast ratio of two hex colours, 1 to 21."""
    high, low = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def tint(colour: str, surface: str, share: float) -> str:
    """What CSS ``color-mix(in srgb, colour share, surface)`` gives."""
    pairs = zip(_channels(colour), _channels(surface), strict=True)
    return _hex([share * c + (1 - share) * s for c, s in pairs])


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


def glyphs(space: PreferenceSpace) -> list[str]:
    """Glyphs by slot, as ``colours``."""
    return [look(space, pole.name).glyph for pole in space.poles] + list(EXTRA_SHAPES)


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
            return _hex([_gamma(min(1.0, max(0.0, value))) for value in linear])
        chroma -= 0.005


def _gamma(linear: float) -> float:
    return 12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055


def _channels(colour: str) -> list[float]:
    return [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]


def _hex(channels: list[float]) -> str:
    return "#" + "".join(f"{round(value * 255):02x}" for value in channels)


def _luminance(colour: str) -> float:
    linear = [
        v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in _channels(colour)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
