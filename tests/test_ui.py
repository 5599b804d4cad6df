"""The page's Python without a browser: colours, frames, runs, addresses."""

from __future__ import annotations

import copy
import json
import math
import socket
import time

import pytest

from mpd_core.errors import MPDError, RequestError
from mpd_core.packs import load_pack
from mpd_core.preferences import Dimension, Pole, PreferenceSpace
from mpd_core.request import GenerationRequest, Message
from mpd_core.trace import StepRecord
from mpd_core.ui import palette, view
from mpd_core.ui.chat import KEPT_SECONDS, Chat, expire
from mpd_core.ui.handlers import whole
from mpd_core.ui.server import check_port
from mpd_core.ui.zerogpu import duration

PACK = load_pack("smollm2-135m")


def request(prompt: str = "Hi", *before: Message) -> GenerationRequest:
    return GenerationRequest((*before, Message("user", prompt)), "AAA")


def step(index: int, text: str, logprob: float = -1.0) -> StepRecord:
    weights = {"elementary": 0.5, "concise": 0.25, "friendly": 0.25}
    return StepRecord(index, 7, text, weights, 0.4, dict.fromkeys(weights, logprob), 1.0, 0.1)


def space(dimensions: int, poles: int) -> PreferenceSpace:
    return PreferenceSpace(
        tuple(
            Dimension(f"d{d}", tuple(Pole(f"p{d}_{p}", "x") for p in range(poles)))
            for d in range(dimensions)
        )
    )


@pytest.mark.parametrize("theme", [palette.LIGHT, palette.DARK])
@pytest.mark.parametrize(("dimensions", "poles"), [(3, 2), (1, 1), (12, 5)])
def test_text_is_readable_on_every_token(theme: palette.Theme, dimensions: int, poles: int) -> None:
    for colour in palette.colours(space(dimensions, poles), theme):
        behind = palette.tint(colour, theme.surface, palette.MAX_MIX)
        assert palette.contrast(theme.text, behind) >= 4.5
        assert palette.contrast(colour, theme.surface) >= 3


def test_glyphs_and_slots_are_distinct() -> None:
    many = space(9, 6)
    looks = [palette.look(many, pole.name) for pole in many.poles]
    assert len({look.glyph for look in looks}) == len(looks)
    assert [look.slot for look in looks] == list(range(54))
    assert palette.look(many, "vanilla").slot == 54
    assert "--mpd-e54" in palette.css(many)


def test_contrast_of_black_on_white_is_21() -> None:
    assert math.isclose(palette.contrast("#000000", "#ffffff"), 21)
    assert palette.tint("#000000", "#ffffff", 0.5) == "#808080"


def test_frame_is_json_even_with_impossible_tokens() -> None:
    chat = Chat()
    run = chat.start(request())
    run.experts = ("elementary", "concise", "friendly")
    run.add(step(0, "Hi"))
    run.add(step(1, "", logprob=-math.inf))
    frame = view.frame(chat, run, PACK, "cpu", "fp32")
    assert json.loads(json.dumps(frame, allow_nan=False)) == frame
    assert frame["text"] == ["Hi", ""]
    assert frame["chance"][1] == [0, 0, 0]
    assert frame["summary"]["means"] == [0.5, 0.25, 0.25]
    assert [expert["glyph"] for expert in frame["experts"]] == ["●", "■", "▲"]


def test_a_run_ends_once() -> None:
    run = Chat().start(request())
    assert run.claim()
    assert not run.claim()
    run.add(step(0, "a"))
    assert run.close("done", "cancelled")
    assert not run.close("done", "stop")
    run.add(step(1, "b"))
    assert (run.text, run.reason) == ("a", "cancelled")


def test_a_stopped_run_is_never_taken_up() -> None:
    run = Chat().start(request())
    run.close("done", "cancelled")
    assert not run.claim()


def test_chat_keeps_replies_but_no_empty_ones() -> None:
    chat = Chat()
    chat.keep(chat.start(request()))
    assert chat.messages == ()
    run = chat.start(request())
    run.add(step(0, "Hello"))
    chat.keep(run)
    assert [m.content for m in chat.messages] == ["Hi", "Hello"]
    chat.clear()
    chat.keep(run)
    assert chat.messages == ()


def test_an_empty_chat_can_be_copied_for_a_session() -> None:
    first, second = copy.deepcopy(Chat()), copy.deepcopy(Chat())
    first.start(request())
    assert second.run is None


@pytest.mark.parametrize("value", [None, "", "x", math.nan, math.inf, 1.5])
def test_whole_refuses_what_is_no_integer(value: object) -> None:
    with pytest.raises(RequestError, match="Seed"):
        whole("Seed", value)


def test_check_port_says_what_to_do() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(MPDError, match=f"Port {port} is taken.*--port"):
            check_port("127.0.0.1", port)
    check_port("127.0.0.1", port)
    with pytest.raises(MPDError, match="from 1 to 65535"):
        check_port("127.0.0.1", 70_000)
    with pytest.raises(MPDError, match=r"Cannot listen on '203\.0\.113\.9'"):
        check_port("203.0.113.9", 7860)


def test_zerogpu_reserves_no_more_than_two_minutes() -> None:
    assert 10 < duration(request()) <= 120


def test_conversations_are_forgotten_when_nobody_uses_them() -> None:
    """Each an hour after its last use; not while a reply is being written, nor anyone else's."""
    first, later, busy, empty = (copy.deepcopy(Chat()) for _ in range(4))
    for chat in (first, later, busy):
        run = chat.start(request())
        run.claim()
        run.add(step(0, "Hello"))
        if chat is not busy:
            run.close("done", "stop")
            chat.keep(run)
    later.used += 600
    now = time.monotonic()
    assert expire(now + KEPT_SECONDS - 10) == 0
    assert first.messages
    assert expire(now + KEPT_SECONDS + 1) == 1
    assert (first.messages, first.run) == ((), None)
    assert later.messages
    assert busy.run is not None
    assert busy.run.open
    assert expire(now + KEPT_SECONDS + 700) == 1
    assert later.messages == ()
    busy.run.close("done", "stop")
    assert expire(now + KEPT_SECONDS + 700) == 1
    first.start(request()).close("done", "stop")  # a visitor who comes back is known again
    assert expire(now + 2 * KEPT_SECONDS + 700) == 1
    assert empty.run is None
