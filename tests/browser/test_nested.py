"""The page inside another that gives it all the height it asks for, as Spaces does."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from playwright.sync_api import Browser, Frame, Page

from tests.browser.conftest import MARKS, new_context
from tests.patience import PATIENCE

pytestmark = MARKS
# As much of iframe-resizer's protocol as a page around speaks to Gradio's copy of it.
AROUND = """<!doctype html><meta name="viewport" content="width=device-width, initial-scale=1">
<body style="margin: 0"><header style="height: 56px"></header>
<iframe id="f" scrolling="no" style="border: 0; width: 100%; height: 600px"></iframe><script>
const frame = document.querySelector('iframe');
const tell = text => frame.contentWindow.postMessage(`[iFrameSizer]${text}`, '*');
const start = () => tell(
  'f:8:false:false:32:true:true:null:bodyOffset:null:null:0:false:parent:scroll:false');
let asked = false;
const info = () => {
  const {top, height} = frame.getBoundingClientRect(), offsetTop = Math.trunc(top + scrollY);
  const said = {iframeHeight: height, clientHeight: innerHeight, offsetTop, scrollTop: scrollY};
  if (asked) tell(`pageInfo:${JSON.stringify(said)}`);
};
addEventListener('message', ({data}) => {
  if (data === '[iFrameResizerChild]Ready') start();
  if (typeof data !== 'string' || !data.startsWith('[iFrameSizer]')) return;
  const [, height, width, kind] = data.slice(13).split(':');
  if (kind === 'pageInfo') asked = true;
  else if (kind === 'scrollToOffset') scrollTo(0, 56 + Number(height));
  else if (Number(height) > 0) frame.style.height = `${height}px`;
  info();
});
for (const kind of ['scroll', 'resize']) addEventListener(kind, info);
frame.addEventListener('load', start);
frame.src = new URLSearchParams(location.search).get('page');
</script>"""


@pytest.fixture(scope="module")
def hub(studio: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of the page around, which is of another site."""
    folder = tmp_path_factory.mktemp("hub")
    (folder / "index.html").write_text(AROUND)
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.server_port}/?page={studio}"
        server.shutdown()


@contextmanager
def nested(browser: Browser, hub: str, width: int, height: int) -> Iterator[tuple[Page, Frame]]:
    """The page around, and the page within it."""
    context = new_context(browser, width, height, has_touch=True)
    page, strays = context.new_page(), list[str]()
    page.on("pageerror", lambda error: strays.append(str(error)))
    page.goto(hub)
    page.frame_locator("#f").locator("#studio[data-complete]").wait_for()
    frame = page.frames[1]
    frame.wait_for_function("window.mpdSeen && window.innerHeight > 620")
    yield page, frame
    assert strays == []
    context.close()


def ask(frame: Frame, prompt: str, done: str) -> None:
    frame.fill("#prompt textarea", prompt)
    frame.click("#run")
    frame.wait_for_selector(f'#view [data-done="{done}"][data-status]:not([data-run=""])')


def wait_until_seen(page: Page, frame: Frame, selector: str) -> None:
    """Wait until an element stands where the page around shows it."""
    node = frame.locator(selector).element_handle()
    node.wait_for_element_state("stable")
    deadline = time.monotonic() + PATIENCE
    while True:
        box, size = node.bounding_box(), page.viewport_size  # of what the outermost window shows
        assert box
        assert size
        if box["y"] >= 0 and box["y"] + box["height"] <= size["height"] + 1:
            return
        assert time.monotonic() < deadline, (selector, box)
        page.wait_for_timeout(50)


def test_a_page_around_gives_it_a_height_that_does_not_grow(browser: Browser, hub: str) -> None:
    with nested(browser, hub, 1280, 800) as (page, frame):
        ask(frame, "long story, 256 tokens", "true")
        heights = []
        for _ in range(4):
            page.wait_for_timeout(150)  # each growth would be answered by another
            heights.append(page.evaluate("document.querySelector('iframe').offsetHeight"))
        assert max(heights) < 1300, heights
        assert heights[-1] == heights[-2]


def test_on_a_phone_what_stands_at_an_edge_is_seen(browser: Browser, hub: str) -> None:
    with nested(browser, hub, 390, 844) as (page, frame):
        ask(frame, "held after 60: a tale", "false")
        frame.wait_for_function("document.querySelectorAll('.strip .tok').length === 60")
        page.wait_for_function("window.scrollY > 100")  # the end of the reply is followed
        wait_until_seen(page, frame, ".mpd-stop")
        frame.locator(".mpd-stop").tap()
        frame.wait_for_selector('#view [data-done="true"]')
        frame.locator(".strip .tok").nth(59).tap()
        frame.wait_for_selector('.mpd-side[data-pinned="59"]')
        wait_until_seen(page, frame, ".mpd-side")
        wait_until_seen(page, frame, ".tok.pinned")
        frame.locator(".mpd-release").tap()
        frame.get_by_role("button", name="Ask next").tap()
        page.wait_for_function("window.scrollY <= 56")
