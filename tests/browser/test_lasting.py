"""What outlives a reload, Back and a lost connection, and how many tabs may be open."""

from __future__ import annotations

from collections.abc import Callable

from tests.browser.conftest import MARKS, Visitor
from tests.browser.scripted import ScriptedEngine

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


def test_a_reply_that_a_reload_interrupts_is_shown_as_cut(visit: Visit) -> None:
    visitor = visit()
    run = visitor.run("slow tale", wait=False)
    visitor.wait_for_saved(run)
    visitor.page.reload()
    loaded_again(visitor)
    visitor.page.wait_for_selector(f'.strip[data-run="{run}"] .tok')
    visitor.page.wait_for_selector('#view [data-done="true"]')
    assert "".join(f" {i}" for i in range(400)).startswith(visitor.text(run))
    assert visitor.text(run) != ""
    assert visitor.page.locator(".mpd-end:not(:empty)").inner_text()
    visitor.strays = [s for s in visitor.strays if not offline(s)]


def test_run_without_a_connection_loses_nothing(visit: Visit) -> None:
    visitor = visit()
    first = visitor.run("echo one")
    visitor.page.locator("#dimension-1").get_by_text("informative").click()
    visitor.page.fill("#prompt textarea", "echo two")
    visitor.page.context.set_offline(True)
    visitor.page.click("#run")
    visitor.page.wait_for_timeout(1500)
    visitor.page.evaluate("window.before = true")
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
    for _ in range(8):
        tab = visitor.page.context.new_page()
        tab.goto(studio)
        tab.wait_for_function("window.mpdStudio !== undefined")
    visitor.run("echo still here")


def test_another_tab_begins_anew(visit: Visit, studio: str) -> None:
    visitor = visit()
    visitor.run("echo one")
    tab = visitor.page.context.new_page()
    tab.goto(studio)
    tab.wait_for_function("window.mpdStudio !== undefined")
    tab.wait_for_selector(".mpd-origin:has-text('stored example')")
    assert tab.locator(".mpd-turn").count() == 1
