"""How much work a long reply is for the browser while it is written."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from mpd_core.packs import Pack, load_pack
from mpd_core.ui.server import launch
from tests.browser.conftest import MARKS, Visitor, free_port, processor_seconds, slowness
from tests.browser.scripted import ScriptedEngine

pytestmark = MARKS
Visit = Callable[..., Visitor]


@pytest.fixture(scope="module")
def long_pack() -> Iterator[str]:
    """The default pack's page, with replies of 1,000 tokens at about 60 a second."""
    pack = load_pack("smollm2-135m")
    longer = {"max_new_tokens": 1000, "max_new_tokens_limit": 1000}
    decode = pack.spec.decode.model_copy(update=longer)
    spec = pack.spec.model_copy(update={"decode": decode})
    engine = ScriptedEngine(Pack(spec, pack.folder, pack.toml_sha256))
    page, url = launch(engine, host="127.0.0.1", port=free_port())
    yield url
    page.close(verbose=False)


class Traced:
    """What the browser's pages do in a while, by processor time: a shared core makes every task
    long by the clock."""

    def __init__(self, browser: Browser) -> None:
        self.session = browser.new_browser_cdp_session()
        self.events: list[dict[str, Any]] = []
        self.ended = False
        self.session.on("Tracing.dataCollected", lambda more: self.events.extend(more["value"]))
        self.session.on("Tracing.tracingComplete", lambda _: setattr(self, "ended", True))

    def start(self) -> None:
        config = {"includedCategories": ["toplevel", "devtools.timeline"]}
        self.session.send("Tracing.start", {"traceConfig": config})

    def stop(self, page: Page) -> None:
        self.session.send("Tracing.end")
        while not self.ended:
            page.wait_for_timeout(50)

    def long_tasks(self, least: float) -> list[float]:
        """Milliseconds of every task of a page's main thread that took more than the least."""
        named = [e for e in self.events if e["name"] == "thread_name"]
        main = {(e["pid"], e["tid"]) for e in named if e["args"]["name"] == "CrRendererMain"}
        tasks = [e for e in self.events if e["name"] == "ThreadControllerImpl::RunTask"]
        assert main
        assert tasks
        took = [e.get("tdur", 0) / 1000 for e in tasks if (e["pid"], e["tid"]) in main]
        return [one for one in took if one > least]

    def restyled(self) -> int:
        """Elements whose style was computed anew."""
        updates = [e for e in self.events if e["name"] == "UpdateLayoutTree"]
        return sum(e["args"].get("elementCount", 0) for e in updates)


def test_a_thousand_tokens_at_sixty_a_second_leave_the_page_free(
    visit: Visit, long_pack: str, browser: Browser
) -> None:
    visitor = visit(long_pack)
    page = visitor.page
    traced = Traced(browser)
    before, begun = processor_seconds(browser), time.monotonic()
    traced.start()
    visitor.run("brisk story", wait=False)
    page.wait_for_selector('#view [data-done="true"]')
    seconds = time.monotonic() - begun
    traced.stop(page)
    assert visitor.view.get_attribute("data-count") == "1000"
    processor, slow = processor_seconds(browser) - before, slowness(browser)
    long = traced.long_tasks(50 * slow)
    print(f"in {seconds:.0f} s: {sum(long) / seconds:.0f} ms of long tasks and "
          f"{1000 * processor / seconds:.0f} ms of processor a second, "
          f"{traced.restyled() / 1000:.0f} elements restyled a token")  # fmt: skip
    assert (
        sum(long) / seconds < 50 * slow
    )  # none, and no task above 36, on the machine of the figures
    assert processor / seconds < 0.6 * slow
    # A rule with :has() once had the browser restyle the whole reply at each update: 70 a token.
    assert traced.restyled() < 20 * 1000
    assert page.evaluate("window.Plotly") is None
