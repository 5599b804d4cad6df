"""Codes, names and enumeration of preferences, for any number of dimensions and poles."""

from __future__ import annotations

import pytest

from mpd_core.errors import RequestError
from mpd_core.method.preferences import Dimension, Pole, PreferenceSpace

SPACE = PreferenceSpace(
    (
        Dimension("size", (Pole("small", "Be small."), Pole("big", "Be big."))),
        Dimension("mood", (Pole("sad", "Sob."), Pole("calm", "Breathe."), Pole("mad", "Shout."))),
    )
)


def test_codes_round_trip() -> None:
    codes = [preference.code for preference in SPACE]
    assert codes == ["AA", "AB", "AC", "BA", "BB", "BC"]
    assert [SPACE.parse(code).code for code in codes] == codes
    assert SPACE.parse("-c").code == "-C"
    with pytest.raises(RequestError, match="'ß' is no pole"):
        SPACE.parse("ß-")  # two letters in capitals


def test_poles_of_a_preference() -> None:
    assert [p.name for p in SPACE.parse("B-").poles] == ["big"]
    assert [p.name for p in SPACE.poles] == ["small", "big", "sad", "calm", "mad"]


def test_select_by_name() -> None:
    assert SPACE.select({"mood": "mad"}).code == "-C"
    assert SPACE.select({"mood": "", "size": "small"}).code == "A-"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"mood": "big"}, "'big' is no pole of dimension 'mood': use sad, calm, mad"),
        ({"mood": "x" * 900}, "'x{60}' is no pole"),
        ({"colour": "red"}, "Unknown dimension 'colour'"),
    ],
)
def test_select_refuses(names: dict[str, str], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        SPACE.select(names)
