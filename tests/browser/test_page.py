"""What a visitor can do on the page, and what must not happen to them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from mpd_core.packs import load_pack
from mpd_core.ui.server import launch
from tests.browser.conftest import MARKS, Visitor, free_port
from tests.browser.scripted import HOSTILE, SPEECH, TALE, ScriptedEngine
from tests.patience import PATIENCE

pytestmark = MARKS
Visit = Callable[..., Visitor]


def notice(visitor: Visitor) -> str:
    box = visitor.page.locator(".mpd-notice:not(:empty)")
    box.wait_for()
    return box.inner_text()


def test_strip_heatmap_and_steps_have_the_same_count(
    visitor: Visitor, engine: ScriptedEngine
) -> None:
    run = visitor.run("Explain photosynthesis.")
    steps = len(engine.streams[-1].steps)
    assert visitor.strip(run).locator(".tok").count() == steps
    assert visitor.view.get_attribute("data-count") == str(steps)
    visitor.wait_for_map()
    assert visitor.page.locator(".mpd-heat").get_attribute("data-rows") == "3"


def test_strip_reads_exactly_as_the_reply(visitor: Visitor) -> None:
    run = visitor.run("Explain photosynthesis.")
    assert visitor.text(run) == SPEECH
    visitor.page.get_by_label("Show spaces").check()
    assert visitor.text(run) == SPEECH


def test_tokens_show_the_leading_expert(visitor: Visitor, engine: ScriptedEngine) -> None:
    run = visitor.run("Explain photosynthesis.")
    visitor.page.get_by_label("Colour by").select_option("weight")
    glyphs = {"elementary": "●", "concise": "■", "friendly": "▲"}
    shown = visitor.strip(run).locator(".tok").evaluate_all("b => b.map(x => x.dataset.glyph)")
    steps = engine.streams[-1].steps
    assert shown == [glyphs[max(s.weights, key=s.weights.__getitem__)] for s in steps]
    for mode in ("probability", "entropy", "disagreement", "divergence"):
        visitor.page.get_by_label("Colour by").select_option(mode)
        assert visitor.page.locator('.tok[data-slot="level"]').count() == len(steps)


def test_toggles_reach_the_request(visit: Visit, engine: ScriptedEngine) -> None:
    visitor = visit()
    visitor.page.locator("#dimension-0").get_by_text("knowledgeable").click()
    visitor.page.locator("#dimension-1").get_by_text("off").click()
    visitor.run("Explain photosynthesis.")
    assert engine.streams[-1].request.preference == "B-A"
    assert engine.streams[-1].experts == ("knowledgeable", "friendly")


def test_example_sets_prompt_and_toggles(visit: Visit) -> None:
    visitor = visit()
    visitor.page.locator("#examples button").last.click()
    visitor.wait_for_draft("How does the internet find a web page?")
    visitor.wait_for_toggles(["knowledgeable", "informative", "unfriendly"])


def test_stop_ends_the_reply_and_keeps_what_is_there(
    visitor: Visitor, engine: ScriptedEngine
) -> None:
    run = visitor.run("slow tale", wait=False)
    visitor.page.click("#stop")
    visitor.page.wait_for_selector('#view [data-done="true"]')
    assert engine.streams[-1].ended.wait(PATIENCE)
    kept = visitor.text(run)
    whole = "".join(TALE)
    assert kept
    assert whole.startswith(kept)
    assert kept != whole
    time.sleep(0.3)
    assert visitor.text(run) == kept
    assert visitor.page.locator('.mpd[data-busy="false"]').count() == 1
    visitor.run("echo again")
    sent = [(m.role, m.content) for m in engine.streams[-1].request.messages]
    assert sent == [("user", "slow tale"), ("assistant", kept), ("user", "echo again")]


def test_stop_before_the_first_token(visitor: Visitor) -> None:
    visitor.page.fill("#prompt textarea", "never answer")
    visitor.page.click("#run")
    visitor.page.wait_for_selector('#view [data-status="waiting"]')
    visitor.page.click("#stop")
    visitor.page.wait_for_selector('#view [data-status="done"]')
    assert visitor.page.locator(".mpd-end").inner_text() == "Stopped."
    assert visitor.page.locator(".strip .tok").count() == 0


def test_a_stopped_reply_does_not_hold_up_the_next(
    visitor: Visitor, engine: ScriptedEngine
) -> None:
    visitor.page.fill("#prompt textarea", "stuck in the prompt")
    visitor.page.click("#run")
    visitor.page.wait_for_selector('#view [data-status="waiting"]')
    visitor.page.click("#stop")
    visitor.page.wait_for_selector('#view [data-status="done"]')
    stuck = engine.streams[-1]
    run = visitor.run("echo next")  # while the engine is still busy with the one before
    assert visitor.text(run) == "echo next"
    assert not stuck.steps
    stuck.unstuck.set()
    assert stuck.left.wait(PATIENCE)
    visitor.page.wait_for_timeout(300)  # the old reply wakes up, and must not show
    assert visitor.text(run) == "echo next"
    assert visitor.view.get_attribute("data-run") == run


def test_turns_stay_and_new_chat_forgets(visitor: Visitor, engine: ScriptedEngine) -> None:
    first = visitor.run("echo one")
    visitor.run("echo two")
    assert visitor.text(first) == "echo one"
    assert len(engine.streams[-1].request.messages) == 3
    visitor.page.click("#new")
    visitor.page.wait_for_selector(".mpd-turn", state="detached")
    visitor.run("echo three")
    assert len(engine.streams[-1].request.messages) == 1


def test_the_last_chat_can_be_brought_back(visit: Visit, engine: ScriptedEngine) -> None:
    visitor = visit()
    first, second = visitor.run("echo one"), visitor.run("echo two")
    visitor.page.click("#new")
    visitor.page.wait_for_selector(".mpd-turn", state="detached")
    visitor.page.get_by_role("button", name="Bring the last one back").press("Enter")
    assert [visitor.text(run) for run in (first, second)] == ["echo one", "echo two"]
    expect(visitor.page.locator(".mpd-notice")).to_be_empty()
    visitor.page.reload()
    visitor.page.wait_for_selector(f'.strip[data-run="{second}"] .tok')
    visitor.run("echo three")
    assert len(engine.streams[-1].request.messages) == 5
    visitor.page.click("#new")
    visitor.run("echo four")  # what is asked for takes the offer away
    expect(visitor.page.locator(".mpd-notice")).to_be_empty()
    assert visitor.page.locator(".mpd-turn").count() == 1


def test_new_chat_while_writing(visitor: Visitor, engine: ScriptedEngine) -> None:
    visitor.run("held and steady", wait=False)
    visitor.page.click("#new")
    visitor.page.wait_for_selector('#view [data-run=""]')
    assert engine.streams[-1].left.wait(PATIENCE)
    visitor.page.wait_for_timeout(200)
    assert visitor.page.locator(".mpd-turn").count() == 0


def test_two_visitors_are_isolated(visit: Visit, engine: ScriptedEngine) -> None:
    one, two = visit(), visit()
    first = one.run("held first", wait=False)
    stream = engine.streams[-1]
    second = two.run("echo second")
    assert two.text(second) == "echo second"
    stream.unstuck.set()
    assert one.page.locator(".mpd-turn").count() == two.page.locator(".mpd-turn").count() == 1
    one.page.wait_for_selector('#view [data-done="true"]')
    assert one.text(first) == SPEECH


def test_closed_tab_cancels(
    visit: Visit, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpd_core.ui.handlers.LINGER_SECONDS", 1.0)
    visitor = visit()
    visitor.run("unhurried tale", wait=False)
    stream = engine.streams[-1]
    visitor.page.close()
    assert stream.ended.wait(PATIENCE)
    assert stream.reason == "cancelled"


def test_hostile_text_is_inert(visitor: Visitor) -> None:
    run = visitor.run("hostile " + HOSTILE)
    visitor.pin(run, 4)
    visitor.wait_for_frames()
    assert HOSTILE in (visitor.text(run) or "")
    assert visitor.page.evaluate("window.pwned") is None
    assert visitor.page.locator("#view img, #view script, #view a, #view b").count() == 0


def test_markdown_of_the_model_loads_nothing(visitor: Visitor) -> None:
    visitor.run("Explain photosynthesis.")  # its reply holds a link and an image
    assert visitor.page.locator("#view a, #view img").count() == 0


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_axe_finds_nothing_serious(visit: Visit, width: int, scheme: str) -> None:
    visitor = visit(width=width, scheme=scheme)
    visitor.run("Explain photosynthesis.")
    visitor.page.locator(".tok").nth(3).click()
    visitor.page.locator(".mpd-whatif summary").click()
    visitor.page.locator(".mpd-keep summary").click()
    visitor.wait_for_transitions()  # a button that is fading has less contrast for a moment
    ours = ("#header", "#view", "#dimensions", "#buttons", "#prompt", "#more", ".tab-wrapper")
    assert serious(visitor, *ours) == []
    assert visitor.page.locator("h1").count() == 1
    visitor.page.get_by_role("tab", name="Analyse").click()
    visitor.page.get_by_role("button", name="Replies of this conversation").click()
    visitor.page.wait_for_selector('.mpd-analysis[data-ready="true"]')
    assert serious(visitor, "#analyse .mpd-analyse", ".tab-wrapper") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_before_anything_is_asked(visit: Visit, scheme: str) -> None:
    visitor = visit(scheme=scheme, reduced_motion="reduce")
    visitor.page.wait_for_selector(".strip .tok")
    visitor.wait_for_transitions()
    assert serious(visitor, "#view", "#more") == []


def serious(visitor: Visitor, *parts: str) -> list[tuple[str, list[str]]]:
    """What axe finds wrong with parts of the page, beyond advice."""
    found = Axe().run(visitor.page, context={"include": [[part] for part in parts]})
    return [
        (f["id"], [n["html"] for n in f["nodes"][:3]])
        for f in found.response["violations"]
        if f["impact"] in ("serious", "critical")
    ]


def test_dark_mode_repaints_the_map(visit: Visit) -> None:
    visitor = visit()
    visitor.run("Explain photosynthesis.")
    visitor.wait_for_map()
    canvas = "document.querySelector('.mpd-heat canvas')"
    last = f"{canvas}.getContext('2d').getImageData({canvas}.width - 10, 10, 1, 1)"
    first = f"{last}.data.slice(0, 3).join()"
    light = visitor.page.evaluate(first)
    visitor.page.click(".mpd-theme")
    visitor.page.wait_for_function(f"{first} !== '{light}'")
    assert "dark" in (visitor.page.locator("body").get_attribute("class") or "")


def test_keyboard_alone(visitor: Visitor) -> None:
    page = visitor.page
    page.locator("#prompt textarea").focus()
    page.keyboard.type("Explain photosynthesis.")
    page.keyboard.press("Control+Enter")
    run = visitor.wait("")
    strip = visitor.strip(run)
    assert strip.locator('.tok[tabindex="0"]').count() == 1
    strip.locator('.tok[tabindex="0"]').focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft"):
        page.keyboard.press(key)
    assert page.evaluate("document.activeElement.dataset.i") == "1"
    page.keyboard.press("Enter")
    assert strip.locator('.tok[aria-pressed="true"]').get_attribute("data-i") == "1"
    page.keyboard.press("ArrowDown")
    assert int(page.evaluate("document.activeElement.dataset.i")) > 1
    page.keyboard.press("End")
    count = strip.locator(".tok").count()
    assert page.evaluate("document.activeElement.dataset.i") == str(count - 1)
    page.keyboard.press("Escape")
    assert strip.locator('.tok[aria-pressed="true"]').count() == 0


def test_arrow_keys_move_a_toggle_and_tab_leaves_it(visit: Visit) -> None:
    visitor = visit()
    visitor.wait_for_toggles(["elementary", "concise", "friendly"])
    page = visitor.page
    page.get_by_role("group", name="length").get_by_role("radio", name="concise").focus()
    page.keyboard.press("ArrowRight")
    visitor.wait_for_toggles(["elementary", "informative", "friendly"])
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.value") == "friendly"
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("ArrowLeft")
    visitor.wait_for_toggles(["elementary", "concise", "friendly"])


@pytest.mark.parametrize("key", ["Enter", "Escape"])
def test_letting_go_of_a_token_gives_the_keyboard_back_its_place(
    visitor: Visitor, key: str
) -> None:
    run = visitor.run("echo one two three")
    visitor.pin(run, 1)
    visitor.page.get_by_label("Token after").focus()
    visitor.page.keyboard.press("Enter")
    visitor.page.get_by_label("Release the pinned token").focus()
    visitor.page.keyboard.press(key)
    expect(visitor.strip(run).locator(".tok").nth(2)).to_be_focused()
    assert visitor.strip(run).locator('.tok[aria-pressed="true"]').count() == 0
    visitor.page.keyboard.press("ArrowLeft")
    expect(visitor.strip(run).locator(".tok").nth(1)).to_be_focused()


def over_map(visitor: Visitor, index: int) -> tuple[float, float]:
    """A point of the page over a token's column in the map."""
    canvas = visitor.page.locator(".mpd-heat canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box
    for x in range(int(box["x"]), int(box["x"] + box["width"]), 3):
        visitor.page.mouse.move(x, box["y"] + 10)
        if visitor.page.locator(".mpd-heat").get_attribute("data-hovered") == str(index):
            return x, box["y"] + 10
    pytest.fail(f"no column of the map is token {index}")


def test_hover_and_pins_link_strip_and_map_both_ways(visitor: Visitor) -> None:
    page = visitor.page
    run = visitor.run("Explain photosynthesis.")
    visitor.wait_for_map()
    visitor.strip(run).locator(".tok").nth(2).hover()
    page.wait_for_selector('.mpd-heat[data-hovered="2"]')
    x, y = over_map(visitor, 7)
    assert page.locator(".tok.hovered").get_attribute("data-i") == "7"
    page.mouse.click(x, y)
    assert page.locator('.tok.pinned[aria-pressed="true"]').get_attribute("data-i") == "7"
    assert page.locator(".mpd-detail-rows .mpd-row").count() == 3


def test_a_pin_made_in_the_map_brings_its_token_into_view(visit: Visit) -> None:
    visitor = visit(height=700)
    visitor.run("echo " + "word " * 300)
    page = visitor.page
    page.locator(".mpd-log").evaluate("log => { log.scrollTop = 0; }")
    shown = page.locator(".mpd-heat").evaluate("map => +map.dataset.start + +map.dataset.columns")
    x, y = over_map(visitor, shown - 3)
    page.mouse.click(x, y)
    inside = """() => {
      const box = document.querySelector('.tok.pinned').getBoundingClientRect();
      const log = document.querySelector('.mpd-log').getBoundingClientRect();
      return box.top >= log.top - 1 && box.bottom <= log.bottom + 1;
    }"""
    page.wait_for_function(inside)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [("", "The prompt is empty"), ("   ", "The prompt is empty"), ("busy", "The engine is full")],
)
def test_refusals_are_messages_and_keep_the_prompt(
    visitor: Visitor, prompt: str, message: str
) -> None:
    visitor.page.fill("#prompt textarea", prompt)
    visitor.page.click("#run")
    assert message in notice(visitor)
    assert visitor.page.locator(".mpd-turn").count() == 0
    assert visitor.page.locator("#prompt textarea").input_value() == prompt
    visitor.run("echo fine")
    assert visitor.page.locator(".mpd-notice:not(:empty)").count() == 0


@pytest.mark.parametrize(("prompt", "message"), [("break it", "ran out of memory"), ("bug", "log")])
def test_failure_keeps_text_and_prompt(visitor: Visitor, prompt: str, message: str) -> None:
    run = visitor.run(prompt)
    assert message in visitor.page.locator(".mpd-end").inner_text()
    assert visitor.strip(run).locator(".tok").count() == 5
    visitor.page.wait_for_function(
        f"document.querySelector('#prompt textarea').value === '{prompt}'"
    )


def test_the_engine_can_leave_a_note(visitor: Visitor) -> None:
    assert "A note of the engine." in visitor.page.locator(".mpd-notes").inner_text()


PACK = """
schema_version = 1
name = "other"
title = "Another pack"
[base]
name = "none"
[base.source]
kind = "folder"
folder = "."
[[dimensions]]
name = "register"
poles = [{ name = "simple", instruction = "a" }, { name = "poetic", instruction = "b" },
         { name = "legal", instruction = "c" }]
[[dimensions]]
name = "mood"
poles = [{ name = "glad", instruction = "d" }, { name = "sad", instruction = "e" }]
[[dimensions]]
name = "era"
poles = [{ name = "old", instruction = "f" }, { name = "new", instruction = "g" }]
[[dimensions]]
name = "form"
poles = [{ name = "list", instruction = "h" }, { name = "prose", instruction = "i" }]
[decode]
max_new_tokens = 700
max_new_tokens_limit = 1000
"""


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ScriptedEngine]]:
    """The page of a pack with four dimensions, three poles in one, and long replies."""
    folder = tmp_path_factory.mktemp("other")
    (folder / "pack.toml").write_text(PACK, encoding="utf-8")
    engine = ScriptedEngine(load_pack(folder))
    page, url = launch(engine, host="127.0.0.1", port=free_port())
    yield url, engine
    page.close(verbose=False)


def test_untrained_pack_says_so(visit: Visit, other: tuple[str, ScriptedEngine]) -> None:
    notes = visit(other[0]).page.locator(".mpd-notes").inner_text()
    assert "untrained" in notes
    assert "uniform" in notes


def test_any_number_of_dimensions_and_poles(
    visit: Visit, other: tuple[str, ScriptedEngine]
) -> None:
    url, engine = other
    visitor = visit(url)
    visitor.page.locator("#dimension-0").get_by_text("legal").click()
    run = visitor.run("echo this")
    assert engine.streams[-1].experts == ("legal", "glad", "old", "list")
    visitor.pin(run, 0)
    assert visitor.page.locator(".mpd-detail-rows .mpd-row").count() == 4


def test_map_of_a_long_reply_is_a_window(visit: Visit, other: tuple[str, ScriptedEngine]) -> None:
    visitor = visit(other[0])
    run = visitor.run("long story")
    assert visitor.strip(run).locator(".tok").count() == 700
    chart = visitor.page.locator(".mpd-heat[data-columns]")
    columns = int(chart.get_attribute("data-columns") or 0)
    assert 50 < columns <= 512
    assert chart.get_attribute("data-start") == str(700 - columns)
    for _ in range(30):
        if visitor.page.locator(".mpd-earlier").is_enabled():
            visitor.page.click(".mpd-earlier")
    assert chart.get_attribute("data-start") == "0"
    assert visitor.page.locator(".mpd-range").inner_text() == f"tokens 1–{columns} of 700"
