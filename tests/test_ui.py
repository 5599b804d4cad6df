"""The page's Python without a browser: colours, frames, runs, addresses."""

from __future__ import annotations

import json
import math
import socket
import time
from dataclasses import replace
from types import SimpleNamespace

import gradio as gr
import pytest

from mpd_core.errors import MPDError, RequestError
from mpd_core.method.preferences import Dimension, Pole, PreferenceSpace
from mpd_core.packs import load_pack
from mpd_core.request import GenerationRequest, Message
from mpd_core.trace import Candidate, StepRecord
from mpd_core.ui import ask, pages, palette, runs, settings, zerogpu
from mpd_core.ui.ask import uses_preference, whole
from mpd_core.ui.handlers import Handlers
from mpd_core.ui.runs import KEPT, Run, Runs
from mpd_core.ui.server import check_port
from mpd_core.ui.zerogpu import duration
from tests.browser.scripted import SPEECH, ScriptedEngine
from tests.patience import PATIENCE

PACK = load_pack("smollm2-135m")
HELD = [{"role": "user", "content": "held and steady"}]
"""Of a reply that stands still after some tokens."""


def request(prompt: str = "Hi", *before: Message) -> GenerationRequest:
    return GenerationRequest((*before, Message("user", prompt)), "AAA")


def step(index: int, text: str, logprob: float = -1.0) -> StepRecord:
    weights = {"elementary": 0.5, "concise": 0.25, "friendly": 0.25}
    return StepRecord(index, 7, text, weights, 0.4, dict.fromkeys(weights, logprob), 1.0, 0.1, 0.2)


def space(dimensions: int, poles: int) -> PreferenceSpace:
    return PreferenceSpace(
        tuple(
            Dimension(f"d{d}", tuple(Pole(f"p{d}_{p}", "x") for p in range(poles)))
            for d in range(dimensions)
        )
    )


def channels(colour: str) -> list[float]:
    return [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]


def tint(colour: str, surface: str, share: float) -> str:
    """What CSS ``color-mix(in srgb, colour share, surface)`` gives."""
    pairs = zip(channels(colour), channels(surface), strict=True)
    return "#" + "".join(f"{round(255 * (share * c + (1 - share) * s)):02x}" for c, s in pairs)


def contrast(first: str, second: str) -> float:
    """WCAG contrast ratio of two hex colours, 1 to 21."""
    shares, lights = (0.2126, 0.7152, 0.0722), []
    for colour in (first, second):
        linear = (
            v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in channels(colour)
        )
        lights.append(sum(share * v for share, v in zip(shares, linear, strict=True)))
    return (max(lights) + 0.05) / (min(lights) + 0.05)


@pytest.mark.parametrize("theme", [palette.LIGHT, palette.DARK])
@pytest.mark.parametrize(("dimensions", "poles"), [(3, 2), (1, 1), (12, 5)])
def test_text_is_readable_on_every_token(theme: palette.Theme, dimensions: int, poles: int) -> None:
    for colour in palette.colours(space(dimensions, poles), theme):
        behind = tint(colour, theme.surface, palette.MAX_MIX)
        assert contrast(theme.text, behind) >= 4.5
        assert contrast(colour, theme.surface) >= 3


def test_glyphs_and_slots_are_distinct() -> None:
    many = space(9, 6)
    looks = list(palette.looks(many).values())
    assert len({look.glyph for look in looks}) == len(looks)
    assert [look.slot for look in looks] == list(range(54))
    assert "--mpd-e54" in palette.css(many)


def test_contrast_of_black_on_white_is_21() -> None:
    assert math.isclose(contrast("#000000", "#ffffff"), 21)
    assert tint("#000000", "#ffffff", 0.5) == "#808080"


NAME = "0123456789abcdef0123456789abcdef"


def a_run(number: int = 0) -> Run:
    return Run(f"{number:032x}", request())


def rows(said: dict[str, object]) -> list[list[object]]:
    """The steps in a frame's reply, in order."""
    parts = said["parts"]
    assert isinstance(parts, dict)
    return [row for i in sorted(parts, key=int) for row in json.loads(parts[i])]


def test_frame_is_json_even_with_impossible_tokens() -> None:
    run = a_run()
    run.experts = ("elementary", "concise", "friendly")
    run.add(step(0, "Hi"))
    run.add(step(1, "", logprob=-math.inf))
    frame = runs.frame([run])
    assert json.loads(json.dumps(frame, allow_nan=False)) == frame
    said = frame["runs"][run.id]
    assert [row[0] for row in rows(said)] == ["Hi", ""]
    assert rows(said)[0][2] == [0.5, 0.25, 0.25]
    assert rows(said)[1][4] == [None, None, None]


@pytest.mark.parametrize("anchors", [(), ("plain",), ("plain", "anchor")])
def test_rows_of_the_space_strength_follow_the_experts(anchors: tuple[str, ...]) -> None:
    """One where a pack starts from what its shifts are measured from, else two."""
    experts = ("elementary", "concise", "friendly")
    said = step(0, "Hi")
    named = {**said.logprobs, **{name: -2.0 - k for k, name in enumerate(anchors)}}
    one = Candidate(7, "Hi", 0.5, named)
    row = json.loads(runs.encode(experts, [replace(said, logprobs=named, top_k=(one,))]))[0]
    expected = [*(said.logprobs[name] for name in experts), -2.0, -3.0][: 3 + len(anchors)]
    assert row[4] == pytest.approx(expected)
    assert row[7][0][3] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("prior", "words"), [(0.0, "the bare base"), (0.5, "a part"), (1.0, "the anchor of all")]
)
def test_settings_say_what_strength_moves(prior: float, words: str) -> None:
    experts = PACK.spec.experts
    assert words in settings.moved(experts.model_copy(update={"prior": prior}))


def test_frames_hold_the_last_chunks_and_a_fetch_holds_all() -> None:
    run = a_run()
    run.experts = ("elementary", "concise", "friendly")
    for i in range(20):
        run.add(step(i, f" {i}"))
        said = runs.frame([run])["runs"][run.id]
    assert said["count"] == 20
    assert list(said["parts"]) == [str(i) for i in range(20 - runs.WINDOW, 20)]
    whole_run = runs.frame([run], whole=True)["runs"][run.id]
    assert [row[0] for row in rows(whole_run)] == [f" {i}" for i in range(20)]


def test_a_run_ends_once() -> None:
    run = a_run()
    run.experts = ("elementary", "concise", "friendly")
    run.add(step(0, "a"))
    assert run.close("done", "cancelled")
    assert not run.close("done", "stop")
    run.add(step(1, "b"))
    assert (run.count, run.reason) == (1, "cancelled")


def test_a_run_that_was_stopped_before_it_came_never_begins() -> None:
    runs = Runs()
    assert runs.stop([a_run(1).id]) == []
    assert not runs.add(a_run(1))
    assert runs.add(a_run(2))
    assert not runs.add(a_run(2))


def test_ended_runs_are_kept_for_a_while_and_open_ones_always() -> None:
    runs, first = Runs(), a_run(0)
    runs.add(first)
    for number in range(1, KEPT + 5):
        run = a_run(number)
        runs.add(run)
        run.close("done", "stop")
    runs.add(a_run(1000))
    assert runs.find([first.id]) == [first]
    assert runs.find([a_run(1).id]) == []
    assert len(runs.find([a_run(KEPT + 4).id])) == 1


def asked(**changes: object) -> str:
    messages = [{"role": "user", "content": "Hi"}]
    one = {"id": NAME, "messages": messages, "preference": "AAA", "settings": {"seed": 3}}
    return json.dumps([{**one, **changes}])


def test_what_a_page_asks_becomes_a_request() -> None:
    sent = asked(settings={"method": "uniform", "space": "logit", "seed": 3.0, "temperature": 0.5})
    (run,) = ask.runs(sent, PACK)
    assert run.open
    assert (run.request.method, run.request.space) == ("uniform", "logit")
    assert (run.request.sampling.seed, run.request.sampling.temperature) == (3, 0.5)
    assert run.request.preference == "AAA"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"messages": []}, "must end with the user"),
        ({"messages": [{"role": "root", "content": "x"}]}, "Unknown role"),
        ({"messages": [{"role": "user", "content": 7}]}, "must be text"),
        ({"messages": ["x"]}, "no object"),
        ({"messages": [{"role": "user", "content": "x"}] * 99}, "turns"),
        ({"preference": "---"}, "All toggles are off"),
        ({"preference": ["A"]}, "no text"),
        ({"settings": {"method": ["mpd"]}}, "no text"),
        ({"settings": {"evil": 1}}, "unknown here"),
        ({"settings": {"seed": 1.5}}, "Seed is 1.5"),
        ({"settings": {"seed": None}}, "Seed"),
        ({"settings": {"temperature": "hot"}}, "temperature"),
        ({"settings": {"seed": None}}, "Seed is empty: give a whole number from 0 to 4294967295."),
        ({"settings": {"temperature": None}}, "Temperature is empty: give a number from 0 to"),
        ({"settings": {"max_new_tokens": 10**6}}, "max_new_tokens"),
        ({"settings": []}, "unknown here"),
    ],
)
def test_what_a_page_may_not_ask_is_refused_in_a_sentence(
    changes: dict[str, object], message: str
) -> None:
    (run,) = ask.runs(asked(**changes), PACK)
    assert run.status == "refused"
    assert message in run.reason


@pytest.mark.parametrize(
    "sent", [None, "", "[", "[]", "{}", "[1]", '[{"id": "x"}]', "[" * 10**5, "[" + "1," * 20 + "1]"]
)
def test_nonsense_from_a_page_is_refused_as_a_whole(sent: object) -> None:
    with pytest.raises(RequestError):
        ask.runs(sent, PACK)
    with pytest.raises(RequestError):
        ask.names(sent if sent != "[]" else "[[]]")


def handlers(engine: ScriptedEngine) -> Handlers:
    return Handlers(engine, zerogpu.producer(engine))  # type: ignore[arg-type]


def test_several_replies_are_written_side_by_side_to_their_ends() -> None:
    one = json.loads(asked())[0]
    sent = json.dumps([{**one, "id": f"{k:032x}", "preference": code} for k, code in enumerate(
        ("AAA", "BBB", "---"))])  # fmt: skip
    *_, last = handlers(ScriptedEngine(PACK, pause=0.001)).write(sent)
    first, second, refused = last["runs"].values()
    assert [first["status"], second["status"], refused["status"]] == ["done", "done", "refused"]
    assert first["experts"] == ["elementary", "concise", "friendly"]
    assert second["experts"] == ["knowledgeable", "informative", "unfriendly"]
    assert json.loads(first["head"])["preference"] == "AAA"
    assert json.loads(first["head"])["steps"] == []


def test_a_closed_page_cancels_all_that_it_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpd_core.ui.handlers.LINGER_SECONDS", 0.3)
    engine = ScriptedEngine(PACK)
    one = json.loads(asked(messages=HELD))[0]
    writing = handlers(engine).write(json.dumps([{**one, "id": f"{k:032x}"} for k in range(3)]))
    next(writing)
    writing.close()  # type: ignore[attr-defined]
    assert all(stream.ended.wait(PATIENCE) for stream in engine.streams)
    assert all(stream.reason == "cancelled" for stream in engine.streams)


def test_a_page_that_closes_leaves_the_queue_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And does not wait there until its first token, for which others would have to wait."""
    monkeypatch.setattr("mpd_core.ui.handlers.SILENT_SECONDS", 0.05)
    monkeypatch.setattr("mpd_core.ui.handlers.QUEUED_SECONDS", 0.2)
    engine = ScriptedEngine(PACK)
    queued = [{"role": "user", "content": "never behind 2"}]
    for count in (1, 2):
        one = json.loads(asked(messages=queued))[0]
        sent = json.dumps([{**one, "id": f"{count}{k:031x}"} for k in range(count)])
        writing = handlers(engine).write(sent)
        said = [next(writing) for _ in range(3)][-1]["runs"].values()
        assert [run["status"] for run in said] == ["waiting"] * count
        assert [run["ahead"] for run in said] == [2] * count
        writing.close()  # type: ignore[attr-defined]
    assert len(engine.streams) == 3
    assert all(stream.left.wait(PATIENCE) for stream in engine.streams)
    assert {stream.reason for stream in engine.streams} == {"cancelled"}


def test_replies_go_on_while_a_page_that_came_back_asks_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    passed = [0.0]
    clock = SimpleNamespace(**{**vars(time), "monotonic": lambda: time.monotonic() + passed[0]})
    monkeypatch.setattr("mpd_core.ui.handlers.time", clock)
    monkeypatch.setattr("mpd_core.ui.handlers.LINGER_SECONDS", 1000.0)
    engine, names = ScriptedEngine(PACK), [f"{k:032x}" for k in range(2)]
    one, events = json.loads(asked(messages=HELD))[0], handlers(engine)
    writing = events.write(json.dumps([{**one, "id": name} for name in names]))
    while {run["status"] for run in next(writing)["runs"].values()} != {"streaming"}:
        pass  # one that waits in a queue keeps its place for less long
    writing.close()  # type: ignore[attr-defined]
    for _ in range(3):
        passed[0] += 700.0
        time.sleep(0.3)  # who watches looks five times a second
        found = events.fetch(json.dumps(names))["runs"]
        assert {run["status"] for run in found.values()} <= {"waiting", "streaming"}
    for stream in engine.streams:
        stream.unstuck.set()
    assert len(engine.streams) == 2
    assert all(stream.left.wait(PATIENCE) for stream in engine.streams)
    found = events.fetch(json.dumps(names))["runs"]
    assert [(run["status"], run["finish"]) for run in found.values()] == [("done", "stop")] * 2
    steps = [json.loads(part) for part in found[names[0]]["parts"].values()]
    assert "".join(row[0] for part in steps for row in part) == SPEECH


def test_a_page_that_asks_for_nothing_changes_nothing() -> None:
    assert list(handlers(ScriptedEngine(PACK)).write("")) == [gr.skip()]


def test_stop_and_fetch_answer_nonsense_in_a_sentence() -> None:
    events = handlers(ScriptedEngine(PACK))
    for answer in (events.stop("x"), events.fetch("[7]")):
        assert "reload it" in answer["refused"]
    answer = events.fetch(json.dumps([NAME]))
    assert (answer["runs"], answer["lost"], answer["engine"]["ready"]) == ({}, [NAME], True)


def test_methods_that_do_not_look_at_the_toggles() -> None:
    assert not uses_preference("vanilla")
    assert not uses_preference("expert:concise")
    for method in ("mpd", "uniform", "static", "static:0.5,0.5", "soup", "prompting"):
        assert uses_preference(method)


def test_every_method_of_the_page_has_a_name() -> None:
    assert settings.method_label("static") != "static"
    assert settings.method_label("static:0.5,0.5") == "MPD static: weights 0.5,0.5"
    assert settings.method_label("expert:concise") == "Only concise"


def test_the_page_template_loses_what_is_gradios() -> None:
    template = """<head>
    <meta property="og:title" content="Gradio" /><meta property="og:url" content="{url}" />
    <meta
      property="og:image"
      content="https://elsewhere/x.jpg"
    />
    <meta name="viewport" content="w" /></head>"""
    renamed = pages.rename(template)
    assert 'property="og:title" content="MPD Studio"' in renamed
    assert "viewport" in renamed
    for wrong in ("Gradio", "{url}", "elsewhere"):
        assert wrong not in renamed


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
