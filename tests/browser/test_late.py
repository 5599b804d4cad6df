"""What comes late, twice, or out of turn takes back nothing that came after it."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from playwright.sync_api import Route, expect

from mpd_core.ui import runs
from tests.browser.conftest import MARKS, Visitor
from tests.browser.scripted import SPEECH, ScriptedEngine
from tests.browser.test_clicks import HOLD
from tests.browser.test_keep import a_trace
from tests.patience import PATIENCE

pytestmark = MARKS
Visit = Callable[..., Visitor]


def test_the_page_is_not_done_before_its_controls_are(visit: Visit) -> None:
    """Gradio puts values on the page some time after it has taken them."""
    visitor = visit()
    page = visitor.page
    page.evaluate(HOLD, "filled")
    page.fill("#prompt textarea", "echo one")
    page.click("#run")
    page.wait_for_function("window.held")
    page.wait_for_selector('#view [data-status="done"]')
    visitor.wait_for_frames()
    assert visitor.view.get_attribute("data-done") == "false"
    page.evaluate("window.release()")
    page.wait_for_selector('#view [data-done="true"]')
    assert visitor.draft() == ""


POINTERS = """all => {
  const term = document.querySelector('.mpd-side .mpd-term');
  term.dataset.kept = 'yes';
  for (const [kind, pointerId, inside] of all) {
    const event = new PointerEvent(kind, {pointerId, bubbles: true});
    (inside ? term : document.body).dispatchEvent(event);
  }
  return new Promise(done => setTimeout(done, 150));  // longer than a finger is waited for
}"""


def test_a_press_is_not_ended_by_an_earlier_one_or_another_finger(
    visitor: Visitor, engine: ScriptedEngine
) -> None:
    """What is pressed in the inspector stays until it comes up."""
    visitor.run("held and steady", wait=False)
    page = visitor.page
    page.wait_for_selector(".mpd-side .mpd-hint:has-text('token 5 of 5')")
    page.evaluate(
        POINTERS,
        [
            ["pointerdown", 1, True], ["pointerup", 1, True], ["pointerdown", 1, True],
            ["pointerdown", 2, False], ["pointerup", 2, False],
        ],
    )  # fmt: skip
    engine.streams[-1].unstuck.set()
    page.wait_for_selector('#view [data-done="true"]')
    visitor.wait_for_frames()
    assert page.locator(".mpd-side [data-kept]").count() == 1
    page.evaluate(POINTERS, [["pointerup", 1, True]])
    page.wait_for_selector(".mpd-side h2:has-text('This reply')")


LATE = """name => { const real = window.mpdStudio[name];
  let first = true;
  window.mpdStudio[name] = async (...values) => {
    if (first) {
      first = false;
      await new Promise(done => { window.release = done; });
    }
    return real(...values);
  }; }"""


def test_every_reply_that_another_ends_is_ended_and_no_other(
    visit: Visit, engine: ScriptedEngine
) -> None:
    """However late Gradio tells the server of the first of them."""
    visitor = visit()
    page, before = visitor.page, len(engine.streams)
    page.evaluate(LATE, "halted")
    for prompt in ("held one", "held two", "held three"):
        visitor.run(prompt, wait=False)
    one, two, three = engine.streams[before:]
    page.evaluate("window.release()")
    assert one.ended.wait(PATIENCE)
    assert two.ended.wait(PATIENCE)
    three.unstuck.set()
    page.wait_for_selector('#view [data-done="true"]')
    assert [stream.reason for stream in (one, two, three)] == ["cancelled", "cancelled", "stop"]


def test_what_is_asked_twice_at_once_is_asked_twice(
    visitor: Visitor, engine: ScriptedEngine
) -> None:
    """Gradio tells of either only after both: neither may take the other's place."""
    visitor.run("echo one")
    before = len(engine.streams)
    visitor.page.evaluate(
        """() => { const again = [...document.querySelectorAll('.last .mpd-actions button')]
            .find(button => button.textContent === 'Ask again');
          again.click();
          again.click(); }"""
    )
    visitor.page.wait_for_selector(".mpd-pager:has-text('3 of 3')")
    visitor.page.wait_for_selector('#view [data-done="true"]')
    assert {s.request.messages[-1].content for s in engine.streams[before:]} == {"echo one"}
    assert visitor.page.locator(".mpd-notice:not(:empty)").count() == 0


SLOW_DISK = """(() => { const {open} = IDBFactory.prototype;
  IDBFactory.prototype.open = function (...what) {
    const asked = open.apply(this, what);
    return {
      set onupgradeneeded(act) { asked.onupgradeneeded = act; },
      set onerror(act) { asked.onerror = act; },
      set onsuccess(act) { asked.onsuccess = e => { window.read = () => act(e); }; },
      get result() { return asked.result; },
    };
  }; })()"""


def test_who_asks_before_the_kept_conversation_is_back_goes_on_with_it(
    visit: Visit, engine: ScriptedEngine
) -> None:
    visitor = visit()
    page = visitor.page
    first = visitor.run("echo one")
    visitor.wait_for_saved(first)
    page.add_init_script(SLOW_DISK)
    page.reload()
    page.wait_for_selector('#studio[data-complete="true"]')
    page.fill("#prompt textarea", "echo two")
    page.click("#run")
    page.wait_for_function("Boolean(window.read)")
    page.evaluate("window.read()")
    visitor.view.wait_for()
    second = visitor.wait(first)
    shown = page.locator(".strip").evaluate_all("all => all.map(strip => strip.dataset.run)")
    assert shown == [first, second]
    sent = [(m.role, m.content) for m in engine.streams[-1].request.messages]
    assert sent == [("user", "echo one"), ("assistant", "echo one"), ("user", "echo two")]


def test_an_analysis_that_comes_late_does_not_replace_a_newer_one(visit: Visit) -> None:
    visitor = visit(reduced_motion="reduce")
    page, held = visitor.page, list[Route]()
    page.get_by_role("tab", name="Analyse").click()
    page.route(
        "**/component_server/", lambda route: route.continue_() if held else held.append(route)
    )
    choose_traces(visitor, 5)
    expect(page.locator("#analyse .mpd-notice")).to_contain_text("Looking at 1 reply…")
    choose_traces(visitor, 3)
    page.wait_for_selector(".mpd-analysis-sum:has-text('1 reply, 3 tokens')")
    with page.expect_response("**/component_server/"):
        held[0].continue_()
    visitor.wait_for_frames()
    assert "1 reply, 3 tokens" in page.locator(".mpd-analysis-sum").inner_text()


def choose_traces(visitor: Visitor, steps: int) -> None:
    content = json.dumps(a_trace(steps)).encode()
    file = {"name": "a.json", "mimeType": "application/json", "buffer": content}
    visitor.page.set_input_files("#analyse input[type=file]", file)  # type: ignore[arg-type]


def test_what_could_not_be_kept_is_kept_later(visit: Visit) -> None:
    visitor = visit()
    page = visitor.page
    page.evaluate(
        """() => { const {put} = IDBObjectStore.prototype;
          IDBObjectStore.prototype.put = () => { throw new DOMException('full'); };
          window.repair = () => { IDBObjectStore.prototype.put = put; }; }"""
    )
    first = visitor.run("echo one")
    visitor.wait_for_frames()
    page.evaluate("window.repair()")
    second = visitor.run("echo two")
    visitor.wait_for_saved(second)
    page.reload()
    page.wait_for_selector(f'.strip[data-run="{second}"] .tok')
    assert [visitor.text(run) for run in (first, second)] == ["echo one", "echo two"]


def test_read_shows_the_last_words_before_a_pause(visitor: Visitor, engine: ScriptedEngine) -> None:
    page = visitor.page
    page.get_by_role("button", name="Read").click()
    run = visitor.run("held after 20", wait=False)
    page.wait_for_function(
        """run => { const strip = document.querySelector(`.strip[data-run="${run}"]`);
          const read = strip.parentNode.querySelector('.mpd-read');
          const letters = node => node.textContent.replace(/[^a-z]/gi, '');
          return strip.querySelectorAll('.tok').length === 20
            && letters(read) === letters(strip); }""",
        arg=run,
    )
    engine.streams[-1].unstuck.set()
    page.wait_for_selector('#view [data-done="true"]')
    page.get_by_role("button", name="Tokens").click()


def test_a_last_frame_that_was_lost_is_asked_for(
    visit: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing comes after it that would tell: the page asks when a reply has long been silent."""
    visitor, real = visit(), runs._framed

    def lossy(run: runs.Run, whole: bool) -> runs.Frame:
        found = real(run, whole)
        if whole or found["status"] != "done":
            return found
        return found | {"status": "streaming", "head": "", "finish": "", "count": 0, "parts": {}}

    monkeypatch.setattr(runs, "_framed", lossy)
    run = visitor.run("Explain photosynthesis.")
    assert visitor.text(run) == SPEECH
