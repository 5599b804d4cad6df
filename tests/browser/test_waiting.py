"""What a visitor sees before the first token: a model that loads, and a queue."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from playwright.sync_api import Route

from mpd_core.packs import Pack, load_pack
from mpd_core.ui.opening import Opening
from mpd_core.ui.server import launch
from tests.browser.conftest import MARKS, Visitor, free_port
from tests.browser.scripted import SPEECH, ScriptedEngine
from tests.browser.test_keep import a_trace, replay

pytestmark = MARKS
Visit = Callable[..., Visitor]


@dataclass
class Slow:
    """A page whose engine comes when a test says so."""

    pack: Pack
    url: str = ""
    tell: Callable[[str], None] | None = None
    told: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)

    def open(self, tell: Callable[[str], None]) -> ScriptedEngine:
        tell("Loading the scripted model.")
        self.told.set()
        self.go.wait()
        return ScriptedEngine(self.pack, notes=("A note of the engine.",))


@pytest.fixture
def slow() -> Iterator[Slow]:
    slow = Slow(load_pack("smollm2-135m"))
    opening = Opening(slow.pack, slow.open, tell=lambda _: None)  # type: ignore[arg-type]
    page, slow.url = launch(opening, host="127.0.0.1", port=free_port())
    opening.start()
    slow.told.wait()
    yield slow
    slow.go.set()
    opening.wait()
    opening.close()
    page.close(verbose=False)


def wait_for_status(visitor: Visitor, words: str) -> None:
    visitor.page.wait_for_function(
        "words => document.querySelector('.mpd-status').textContent.includes(words)", arg=words
    )


def test_the_page_is_there_while_the_model_loads_and_a_reply_waits_for_it(
    visit: Visit, slow: Slow
) -> None:
    visitor = visit(slow.url)
    wait_for_status(visitor, "The model is loading. Loading the scripted model.")
    assert visitor.page.locator(".mpd-device").inner_text() == "loading"
    visitor.page.fill("#prompt textarea", "Explain photosynthesis.")
    visitor.page.click("#run")
    wait_for_status(visitor, "your instruction waits for it. Loading the scripted model.")
    slow.go.set()
    run = visitor.wait("")
    assert visitor.text(run) == SPEECH
    visitor.page.wait_for_selector('.mpd[data-engine="ready"]')
    assert visitor.page.locator(".mpd-device").inner_text() == "cpu · fp32"
    assert "A note of the engine." in visitor.page.locator(".mpd-notes").inner_text()


def test_files_and_the_stored_example_need_no_model(visit: Visit, slow: Slow) -> None:
    visitor = visit(slow.url)
    visitor.page.wait_for_selector(".mpd-origin:has-text('stored example')")
    replay(visitor, json.dumps(a_trace(7)))
    run = visitor.wait("")
    assert visitor.strip(run).locator(".tok").count() == 7
    visitor.pin(run, 3)
    assert visitor.page.locator(".mpd-candidates").count() == 1
    assert visitor.page.locator(".mpd-device").inner_text() == "loading"


def test_a_server_that_does_not_answer_is_not_waited_for_in_silence(visitor: Visitor) -> None:
    """As when six other tabs hold every connection that a browser opens to one site."""
    held: list[Route] = []
    visitor.page.route("**/queue/join**", lambda route: held.append(route))
    visitor.page.fill("#prompt textarea", "echo late")
    visitor.page.click("#run")
    wait_for_status(visitor, "the server has not answered yet…")
    wait_for_status(visitor, "A browser opens six connections to a site at most")
    for route in held:
        route.continue_()
    run = visitor.wait("")
    assert visitor.text(run) == "echo late"
    visitor.page.unroute("**/queue/join**")


def test_a_reply_that_waits_for_the_model_can_be_stopped(visit: Visit, slow: Slow) -> None:
    visitor = visit(slow.url)
    visitor.page.fill("#prompt textarea", "Explain photosynthesis.")
    visitor.page.click("#run")
    wait_for_status(visitor, "waits for it")
    visitor.page.click("#stop")
    visitor.page.wait_for_selector('#view [data-done="true"]')
    slow.go.set()
    visitor.page.wait_for_selector('.mpd[data-engine="ready"]')
    assert visitor.page.locator(".strip .tok").count() == 0


def test_the_place_in_the_queue_is_shown(visitor: Visitor) -> None:
    visitor.page.fill("#prompt textarea", "never behind 3")
    visitor.page.click("#run")
    wait_for_status(visitor, "In the queue: 3 requests are before yours")
    visitor.page.fill("#prompt textarea", "never behind 1")
    visitor.page.click("#run")
    wait_for_status(visitor, "In the queue: 1 request is before yours")
    visitor.page.click("#stop")
    visitor.page.wait_for_selector('#view [data-done="true"]')
