"""What outlives a reload, Back and a lost connection, and how many tabs may be open."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Request, expect

from tests.browser.conftest import MARKS, Visitor, swipe
from tests.browser.scripted import TALE, ScriptedEngine

pytestmark = MARKS
Visit = Callable[..., Visitor]


def loaded_again(visitor: Visitor) -> None:
    visitor.page.wait_for_function("window.mpdStudio !== undefined")
    visitor.view.wait_for()


def test_conversation_draft_toggles_and_theme_survive_a_reload(visit: Visit) -> None:
    visitor = visit()
    first = visitor.run("echo one")
    second = visitor.run("echo two")
    visitor.page.locator("#dimension-0").get_by_text("knowledgeable").click()
    visitor.page.locator("#dimension-2").get_by_text("off").click()
    visitor.page.fill("#prompt textarea", "half a thought")
    visitor.page.click(".mpd-theme")
    dark = visitor.page.locator("body").get_attribute("class")
    visitor.page.wait_for_function(
        """() => { const {prompt, preference} = JSON.parse(sessionStorage.getItem('mpd-draft'));
          return prompt === 'half a thought' && preference === 'BA-'; }"""
    )
    visitor.page.reload()
    loaded_again(visitor)
    visitor.page.wait_for_selector(f'.strip[data-run="{second}"] .tok')
    assert [visitor.text(run) for run in (first, second)] == ["echo one", "echo two"]
    visitor.wait_for_draft("half a thought")
    visitor.wait_for_toggles(["knowledgeable", "concise", ""])
    assert ("dark" in (dark or "")) is True
    assert "dark" in (visitor.page.locator("body").get_attribute("class") or "")


def test_a_conversation_goes_on_after_a_reload(visit: Visit, engine: ScriptedEngine) -> None:
    visitor = visit()
    run = visitor.run("echo one")
    visitor.page.reload()
    loaded_again(visitor)
    visitor.page.wait_for_selector(f'.strip[data-run="{run}"] .tok')
    visitor.run("echo two")
    sent = [(m.role, m.content) for m in engine.streams[-1].request.messages]
    assert sent == [("user", "echo one"), ("assistant", "echo one"), ("user", "echo two")]


def test_back_brings_the_conversation(visit: Visit, studio: str) -> None:
    visitor = visit()
    run = visitor.run("echo one")
    visitor.page.goto(f"{studio}/config")
    visitor.page.go_back()
    loaded_again(visitor)
    visitor.page.wait_for_selector(f'.strip[data-run="{run}"] .tok')
    assert visitor.text(run) == "echo one"


def test_a_reply_that_a_reload_interrupts_is_shown_as_cut(
    visit: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    visitor = visit()
    run = visitor.run("slow tale", wait=False)
    visitor.wait_for_saved(run)
    monkeypatch.setattr("mpd_core.ui.handlers.LINGER_SECONDS", 0.0)
    visitor.page.reload()
    loaded_again(visitor)
    visitor.page.wait_for_selector(f'.strip[data-run="{run}"] .tok')
    visitor.page.wait_for_selector('#view [data-done="true"]')
    assert "".join(TALE).startswith(visitor.text(run))
    assert visitor.text(run) != ""
    assert visitor.page.locator(".mpd-end:not(:empty)").inner_text()
    visitor.strays = [s for s in visitor.strays if not offline(s)]


def test_run_without_a_connection_loses_nothing(visit: Visit) -> None:
    visitor = visit()
    first = visitor.run("echo one")
    visitor.page.locator("#dimension-1").get_by_text("informative").click()
    visitor.page.fill("#prompt textarea", "echo two")
    visitor.page.evaluate("window.before = true")
    visitor.page.context.set_offline(True)
    with visitor.page.expect_event("requestfailed", to_the_api):
        visitor.page.click("#run")
    expect(visitor.page.locator(".mpd-status")).to_contain_text("There is no connection")
    visitor.page.context.set_offline(False)
    # Gradio reloads the page once it is reached again.
    visitor.page.wait_for_function("window.before === undefined")
    loaded_again(visitor)
    visitor.page.wait_for_selector(f'.strip[data-run="{first}"] .tok')
    visitor.wait_for_draft("echo two")
    visitor.wait_for_toggles(["elementary", "informative", "friendly"])
    assert visitor.text(first) == "echo one"
    visitor.page.wait_for_selector('#view [data-done="true"]')
    visitor.strays = [s for s in visitor.strays if not offline(s)]


def lose_the_connection(visitor: Visitor) -> None:
    """Until the page has noticed. Gradio reloads it once the server is reached again."""
    with visitor.page.expect_event("requestfailed", to_the_api):
        visitor.page.context.set_offline(True)
    visitor.page.context.set_offline(False)


def to_the_api(request: Request) -> bool:
    """Not a font that is only now needed: the page does not notice when that one fails."""
    return "/gradio_api/" in request.url


def offline(stray: str) -> bool:
    """What a browser logs of a connection that this test cut."""
    words = (
        "INTERNET_DISCONNECTED",
        "Failed to fetch",
        "net::ERR",
        "Could not",
        "Error",
        "onnection",
    )
    return any(word in stray for word in words)


def test_a_page_that_is_idle_holds_no_connection(visit: Visit, studio: str) -> None:
    """HTTP/1.1 allows a browser six: a seventh idle tab used to hang."""
    visitor = visit()
    for _ in range(6):
        tab = visitor.page.context.new_page()
        tab.goto(studio)
        tab.wait_for_function("window.mpdStudio !== undefined")
    visitor.run("echo still here")


def duplicated(visitor: Visitor, studio: str) -> Visitor:
    """A tab that begins with what another keeps, as browsers do who duplicate or restore one."""
    kept = visitor.page.evaluate("JSON.stringify({...sessionStorage})")
    copy = Visitor(visitor.page.context.new_page())
    copy.page.add_init_script(f"if (!sessionStorage.length) Object.assign(sessionStorage, {kept})")
    copy.page.goto(studio)
    expect(copy.page.locator(".mpd-prompt").first).to_have_text("echo first")
    return copy


def test_a_duplicated_tab_keeps_a_conversation_of_its_own(visit: Visit, studio: str) -> None:
    first = visit()
    first.run("echo first")
    second = duplicated(first, studio)
    second.wait_for_saved(second.run("echo second"))
    first.wait_for_saved(first.run("echo third"))
    again = duplicated(second, studio)
    expect(again.page.locator(".mpd-prompt")).to_have_text(["echo first", "echo second"])


def test_another_tab_begins_anew(visit: Visit, studio: str) -> None:
    visitor = visit()
    visitor.run("echo one")
    tab = visitor.page.context.new_page()
    tab.goto(studio)
    tab.wait_for_function("window.mpdStudio !== undefined")
    tab.wait_for_selector(".mpd-origin:has-text('stored example')")
    assert tab.locator(".mpd-turn").count() == 1


def tale_on_a_phone(visit: Visit, studio: str) -> tuple[Visitor, str]:
    """A reply that is held after its first sixty tokens."""
    prompt = "held after 60: a tale"
    url = f"{studio}/?{urlencode({'max_new_tokens': 140, 'prompt': prompt})}"
    visitor = visit(url, width=390, height=844, has_touch=True, is_mobile=True)
    visitor.wait_for_draft(prompt)
    run = visitor.run(prompt, wait=False)
    visitor.page.wait_for_function(f"{WRITTEN} === 60")
    return visitor, run


WRITTEN = "document.querySelectorAll('.last .strip .tok').length"
END = """() => {
  const end = [...document.querySelectorAll('.last .strip .tok')].at(-1).getBoundingClientRect();
  return end.height > 0 && end.top >= 0 && end.bottom <= window.innerHeight;
}"""


def more_is_written(visitor: Visitor, engine: ScriptedEngine, count: int = 12) -> None:
    """Some more tokens come, and are on the screen."""
    before = visitor.page.evaluate(WRITTEN)
    engine.streams[-1].go_on(count)
    visitor.page.wait_for_function(f"count => {WRITTEN} === count", arg=before + count)
    visitor.wait_for_frames()


@pytest.mark.parametrize("way", ["reload", "back", "lost connection"])
def test_a_phone_follows_a_reply_that_goes_on_when_the_page_is_back(
    visit: Visit, studio: str, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr("mpd_core.ui.handlers.LINGER_SECONDS", 120.0)  # a busy machine loads slowly
    visitor, run = tale_on_a_phone(visit, studio)
    page = visitor.page
    page.evaluate("window.before = true")
    if way == "reload":
        page.reload()
    elif way == "back":
        page.goto(f"{studio}/config")
        page.go_back()
    else:
        lose_the_connection(visitor)
    page.wait_for_function("window.before === undefined")
    loaded_again(visitor)
    page.wait_for_function(f"{WRITTEN} === 60")
    engine.streams[-1].unstuck.set()
    page.wait_for_function(f"{WRITTEN} > 72")
    page.wait_for_function(END)  # never, if it is not followed
    page.wait_for_selector('#view [data-done="true"]')
    page.wait_for_function(END)
    assert visitor.text(run) == "".join(step.text for step in engine.streams[-1].steps)
    assert engine.streams[-1].reason == "length"
    visitor.strays = [s for s in visitor.strays if not offline(s)]


@pytest.mark.parametrize("way", ["stay", "reload"])
def test_who_scrolled_away_is_left_there_until_they_come_back_to_the_end(
    visit: Visit, studio: str, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr("mpd_core.ui.handlers.LINGER_SECONDS", 120.0)
    visitor, run = tale_on_a_phone(visit, studio)
    page = visitor.page
    page.wait_for_function("window.scrollY > 60")
    swipe(page, 300, 800)
    swipe(page, 300, 800)
    page.wait_for_function("window.scrollY < 20")
    if way == "reload":
        page.reload()
        loaded_again(visitor)
        page.wait_for_selector(f'.strip[data-run="{run}"] .tok')
    more_is_written(visitor, engine)
    assert page.evaluate("window.scrollY") < 20
    page.evaluate("window.scrollTo(0, document.documentElement.scrollHeight)")  # past the end
    more_is_written(visitor, engine)
    assert not page.evaluate(END)
    page.evaluate(
        """window.scrollBy(0, document.querySelector('.last').getBoundingClientRect().bottom
          - window.innerHeight + 100)"""
    )
    more_is_written(visitor, engine)
    page.wait_for_function(END)
    page.evaluate("document.querySelector('#stop').click()")
    page.wait_for_selector('#view [data-done="true"]')
    visitor.strays = [s for s in visitor.strays if not offline(s)]


@pytest.mark.parametrize("way", ["wheel", "key"])
def test_who_scrolls_up_in_a_long_reply_is_not_pulled_back(
    visit: Visit, studio: str, engine: ScriptedEngine, way: str
) -> None:
    visitor = visit(f"{studio}/?max_new_tokens=512", width=900, height=700)
    page = visitor.page
    visitor.run("held after 300: a tale", wait=False)
    bottom = """(log => log.scrollHeight - log.clientHeight - log.scrollTop)(
      document.querySelector('.mpd-log'))"""
    page.wait_for_function(f"{WRITTEN} === 300")
    page.wait_for_function(f"document.querySelector('.mpd-log').scrollTop > 40 && {bottom} < 5")
    page.locator(".mpd-log").focus()
    page.locator(".mpd-log").hover()
    if way == "wheel":
        page.mouse.wheel(0, -2000)
    else:
        page.keyboard.press("Home")
    page.wait_for_function("document.querySelector('.mpd-log').scrollTop === 0")
    more_is_written(visitor, engine)
    assert page.evaluate("document.querySelector('.mpd-log').scrollTop") == 0
    if way == "wheel":
        page.mouse.wheel(0, 5000)
    else:
        page.keyboard.press("End")
    page.wait_for_function(f"{bottom} < 5")
    more_is_written(visitor, engine)
    assert page.evaluate(bottom) < 5
    page.click("#stop")
    page.wait_for_selector('#view [data-done="true"]')
