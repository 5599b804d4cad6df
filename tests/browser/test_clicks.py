"""A visitor's click on a token counts, also while the page moves; and nothing moves by pointing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.browser.conftest import MARKS, Visitor
from tests.browser.scripted import ScriptedEngine

pytestmark = MARKS
Visit = Callable[..., Visitor]
WORDS = "echo " + "word " * 160


def middle(visitor: Visitor, run: str, index: int) -> tuple[float, float]:
    """Where a token is, brought into view."""
    token = visitor.strip(run).locator(".tok").nth(index)
    token.scroll_into_view_if_needed()
    visitor.wait_for_frames()
    box = token.bounding_box()
    assert box
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def push(visitor: Visitor, pixels: int) -> None:
    """Move the reply down, as whatever grows above it does; waits until that is on the screen."""
    visitor.page.evaluate(
        """pixels => { const log = document.querySelector('.mpd-log');
          log.style.overflowAnchor = document.documentElement.style.overflowAnchor = 'none';
          log.firstElementChild.before(Object.assign(document.createElement('div'), {
            className: 'pushed', style: `height: ${pixels}px` })); }""",
        pixels,
    )
    visitor.wait_for_frames()


@pytest.mark.parametrize("width", [820, 1280])
def test_a_token_that_moves_from_under_the_pressed_pointer_is_pinned(
    visit: Visit, width: int
) -> None:
    visitor = visit(width=width)
    run, page = visitor.run(WORDS), visitor.page
    x, y = middle(visitor, run, 40)
    page.mouse.move(x, y)
    page.mouse.down()
    push(visitor, 60)
    under = page.evaluate("([x, y]) => document.elementFromPoint(x, y).dataset.i", [x, y])
    page.mouse.up()
    assert under != "40"
    page.wait_for_selector('.mpd-side[data-pinned="40"]')
    assert page.locator(".tok.pinned").count() == 1


@pytest.mark.parametrize("below", [0, 14])  # on a token, and between its line and the next
def test_a_finger_pins_what_it_came_down_on(visit: Visit, below: int) -> None:
    visitor = visit(width=390, height=844, has_touch=True, is_mobile=True)
    run, page = visitor.run(WORDS), visitor.page
    x, y = middle(visitor, run, 40)
    session = page.context.new_cdp_session(page)
    point = {"x": x, "y": y + below}
    session.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [point]})
    push(visitor, 60)
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    page.wait_for_selector('.mpd-side[data-pinned="40"]')


def test_a_token_inside_selected_text_is_pinned_by_one_click(visitor: Visitor) -> None:
    run, page = visitor.run("Explain photosynthesis."), visitor.page
    page.evaluate(
        """run => { const [from, to] = [2, 9].map(i =>
            document.querySelectorAll(`.strip[data-run="${run}"] .tok`)[i].firstChild);
          getSelection().setBaseAndExtent(from, 0, to, 1); }""",
        run,
    )
    visitor.pin(run, 5)
    assert page.evaluate("getSelection().toString()") == ""


def test_a_press_that_travels_and_a_click_elsewhere_pin_nothing(visitor: Visitor) -> None:
    run, page = visitor.run("Explain photosynthesis."), visitor.page
    x, y = middle(visitor, run, 3)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x, y + 300, steps=4)
    page.mouse.up()
    page.evaluate("getSelection().removeAllRanges()")
    page.get_by_label("Show spaces").click()
    page.get_by_label("Show spaces").click()
    visitor.wait_for_frames()
    assert page.locator(".tok.pinned").count() == 0


def test_pointing_at_a_token_does_not_move_the_page(visit: Visit) -> None:
    """What stands below the reply is in sight too, and moves when the inspector grows."""
    visitor = visit()
    run = visitor.run("Explain photosynthesis.")
    for width, height in ((640, 1300), (820, 1300), (1000, 800)):
        visitor.page.set_viewport_size({"width": width, "height": height})
        visitor.page.mouse.move(0, 0)
        visitor.page.wait_for_selector(".mpd-side h2:has-text('This reply')")
        visitor.wait_for_frames()
        pointing_moves_nothing(visitor, run)


def pointing_moves_nothing(visitor: Visitor, run: str) -> None:
    page = visitor.page
    page.evaluate("window.scrollTo(0, 120)")
    x, y = middle(visitor, run, 3)
    tall = page.evaluate("document.querySelector('.mpd-side').offsetHeight")
    before = page.evaluate("window.scrollY")
    page.mouse.move(x, y)
    page.wait_for_selector(f'.strip[data-run="{run}"] .tok.hovered[data-i="3"]')
    visitor.wait_for_frames()
    assert page.evaluate("document.querySelector('.mpd-side').offsetHeight") > tall + 20
    assert page.evaluate("window.scrollY") == before > 0
    assert page.locator('.tok.hovered[data-i="3"]').count() == 1


def test_a_reply_that_grows_leaves_a_phone_where_its_reader_scrolled_to(
    visit: Visit, engine: ScriptedEngine
) -> None:
    """The tools stand below the reply there, and before it in the document."""
    visitor = visit(width=390, height=1100, has_touch=True, is_mobile=True)
    page = visitor.page
    visitor.run("held and steady", wait=False)
    page.wait_for_selector(".strip .tok:nth-of-type(5)")
    visitor.wait_for_draft("")
    page.evaluate("window.dispatchEvent(new Event('touchmove'))")
    page.evaluate("window.scrollTo(0, 60)")
    visitor.wait_for_frames()
    tools = "document.querySelector('.mpd-tools').getBoundingClientRect().top"
    seen = page.evaluate(tools)
    assert seen < 1100
    engine.streams[-1].unstuck.set()
    page.wait_for_selector('#view [data-done="true"]')
    visitor.wait_for_frames()
    assert page.evaluate(tools) > seen + 60
    assert page.evaluate("window.scrollY") == 60


def test_a_press_in_the_inspector_counts_while_its_numbers_change(
    visitor: Visitor, engine: ScriptedEngine
) -> None:
    visitor.run("held and steady", wait=False)
    page = visitor.page
    page.wait_for_selector(".strip .tok:nth-of-type(5)")
    page.wait_for_selector(".mpd-side .mpd-hint:has-text('token 5 of 5')")
    term = page.locator(".mpd-side .mpd-term").first
    term.hover()
    page.mouse.down()
    engine.streams[-1].unstuck.set()
    page.wait_for_selector('#view [data-done="true"]')
    page.mouse.up()
    page.wait_for_selector(".mpd-tip:popover-open")
    page.keyboard.press("Escape")
    page.wait_for_selector(".mpd-side h2:has-text('This reply')")


HOLD = """name => { const real = window.mpdStudio[name];
  window.mpdStudio[name] = async (...values) => {
    window.held = true;
    await new Promise(done => { window.release = done; });
    window.mpdStudio[name] = real;
    return real(...values);
  }; }"""


def test_what_is_typed_and_chosen_while_the_box_is_emptied_stays(visit: Visit) -> None:
    """Gradio had taken the controls' values before, and writes them back after."""
    visitor = visit()
    page = visitor.page
    page.evaluate(HOLD, "wanted")
    visitor.page.fill("#prompt textarea", "echo one")
    page.click("#run")
    page.wait_for_function("window.held")
    page.fill("#prompt textarea", "echo two")
    page.locator("#dimension-1").get_by_text("informative").click()
    page.evaluate("window.release()")
    page.wait_for_selector('#view [data-done="true"][data-status="done"]')
    visitor.wait_for_frames()
    assert visitor.draft() == "echo two"
    visitor.wait_for_toggles(["elementary", "informative", "friendly"])


def test_a_double_press_that_a_busy_browser_tells_of_late_asks_once(
    visit: Visit, engine: ScriptedEngine
) -> None:
    visitor = visit()
    page, before = visitor.page, len(engine.streams)
    page.evaluate(
        """() => { const {ask} = window.mpdStudio;
          window.mpdStudio.ask = (...values) => {
            window.told = (window.told ?? 0) + 1;
            for (const end = performance.now() + 1000; performance.now() < end;) ;
            return ask(...values);
          }; }"""
    )
    page.fill("#prompt textarea", "held for long")
    page.dblclick("#run")
    page.wait_for_selector(".strip .tok:nth-of-type(5)")
    visitor.wait_for_frames()
    assert page.evaluate("window.told") == 1
    assert len(engine.streams) == before + 1
    engine.streams[-1].unstuck.set()
    page.wait_for_selector('#view [data-done="true"]')
