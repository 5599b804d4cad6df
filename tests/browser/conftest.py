"""The page in Debian's Chromium, over a scripted engine; every page is checked for stray errors."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect, sync_playwright

from mpd_core.packs import load_pack
from mpd_core.ui.server import launch
from tests.browser.scripted import ScriptedEngine
from tests.patience import PATIENCE

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
ROOT = Path(__file__).resolve().parents[2]
VIEW = "#view [data-done]"
MARKS = [
    pytest.mark.browser,
    pytest.mark.filterwarnings(
        "ignore:'future.no_silent_downcasting'"
    ),  # Gradio's own use of pandas
]


expect.set_options(timeout=1000 * PATIENCE)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def engine() -> ScriptedEngine:
    pack = load_pack("smollm2-135m")
    # What is scripted are mixtures of the experts, as Eq. 1 has them.
    decode = pack.spec.decode.model_copy(update={"space": "probability"})
    pack.spec = pack.spec.model_copy(update={"decode": decode})
    return ScriptedEngine(pack, notes=("A note of the engine.",))


@pytest.fixture(scope="session")
def studio(engine: ScriptedEngine) -> Iterator[str]:
    """URL of the running page."""
    page, url = launch(engine, host="127.0.0.1", port=free_port())
    yield url
    engine.close()
    page.close(verbose=False)


@contextmanager
def running_app(pack: str | Path) -> Iterator[str]:
    """URL of a running ``python app.py``."""
    port = free_port()
    command = [sys.executable, "app.py", "--pack", str(pack), "--port", str(port)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout
    said = []
    for line in process.stdout:
        said.append(line)
        if f"ready: http://localhost:{port}" in line:
            break
    else:
        pytest.fail("app.py ended before it was ready:\n" + "".join(said))
    try:
        yield f"http://localhost:{port}"
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


@pytest.fixture(scope="session")
def votes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where ``real_app`` keeps votes."""
    return tmp_path_factory.mktemp("votes")


@pytest.fixture(scope="session")
def real_app(votes: Path) -> Iterator[str]:
    """The app as a visitor meets it: ``python app.py`` with the default pack."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPD_DATA", str(votes))
        with running_app("smollm2-135m") as url:
            yield url


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium")
    if path is None:
        pytest.fail("Chromium is missing: install it with 'apt-get install chromium'.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@dataclass
class Visitor:
    """One browser tab on the page, and everything in it that should not have happened."""

    page: Page
    strays: list[str] = field(default_factory=list)

    @property
    def view(self) -> Locator:
        return self.page.locator(VIEW)

    def watch(self) -> None:
        def seen(url: str) -> None:
            if urlparse(url).hostname not in ("localhost", "127.0.0.1", None):
                self.strays.append(f"request to {url}")

        self.page.on("request", lambda request: seen(request.url))
        self.page.on("pageerror", lambda error: self.strays.append(f"page error: {error}"))
        self.page.on("dialog", lambda dialog: (self.strays.append("dialog"), dialog.dismiss()))
        self.page.on(
            "console",
            lambda message: (
                self.strays.append(f"console: {message.text}") if message.type == "error" else None
            ),
        )

    def run(self, prompt: str, *, wait: bool = True) -> str:
        """Type a prompt and press Run; waits for the new run's end, or for its first token."""
        before = self.view.get_attribute("data-run")
        self.page.fill("#prompt textarea", prompt)
        self.page.click("#run")
        return self.wait(before, done=wait)

    def wait(self, before: str | None, *, done: bool = True) -> str:
        """Wait until a run other than ``before`` has ended, or has its first token."""
        self.page.wait_for_function(
            """([view, before, done]) => {
              const {run, count, done: ended} = document.querySelector(view).dataset;
              return run && run !== before && (done ? ended === 'true' : Number(count) > 0);
            }""",
            arg=[VIEW, before or "", done],
        )
        return self.view.get_attribute("data-run") or ""

    def wait_for_transitions(self) -> None:
        """Wait until the buttons are back and nothing fades any more."""
        self.page.wait_for_function(
            """() => !document.querySelector("#run").disabled &&
              document.getAnimations().every(one => one.playState !== "running" ||
                one.effect.getTiming().iterations === Infinity)"""
        )

    def wait_for_map(self) -> None:
        """Wait until the map shows every token."""
        self.page.wait_for_function(
            """view => document.querySelector(view).dataset.count ===
              document.querySelector('.mpd-heat').dataset.columns""",
            arg=VIEW,
        )

    def pin(self, run: str, index: int) -> None:
        """Pin a token as a visitor does, and wait for its numbers."""
        self.strip(run).locator(".tok").nth(index).click()
        self.page.wait_for_selector(f'.mpd-side[data-pinned="{index}"]')

    def draft(self) -> str:
        return self.page.locator("#prompt textarea").input_value()

    def wait_for_draft(self, text: str) -> None:
        self.page.wait_for_function(
            "text => document.querySelector('#prompt textarea').value === text", arg=text
        )

    def wait_for_toggles(self, chosen: list[str]) -> None:
        self.page.wait_for_function(
            """chosen => JSON.stringify(chosen) === JSON.stringify(
              [...document.querySelectorAll('.dimension input:checked')].map(box => box.value))""",
            arg=chosen,
        )

    def wait_for_frames(self) -> None:
        """Wait until what has changed is laid out and drawn."""
        self.page.evaluate(
            "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )

    def wait_for_saved(self, run: str) -> None:
        """Wait until the browser has kept the tokens of a run."""
        self.page.wait_for_function(
            """run => new Promise(done => {
              indexedDB.open('mpd-studio').onsuccess = opened => {
                const base = opened.target.result;
                const kept = base.transaction('versions').objectStore('versions').get(run);
                kept.onsuccess = () => { base.close(); done(kept.result?.rows.length > 0); };
              }; })""",
            arg=run,
        )

    def text(self, run: str) -> str:
        return str(self.strip(run).evaluate("strip => strip.textContent"))

    def strip(self, run: str) -> Locator:
        return self.page.locator(f'.strip[data-run="{run}"]')


def new_context(browser: Browser, width: int, height: int, **options: Any) -> BrowserContext:
    """Its waits are long: a machine may have other work to do."""
    context = browser.new_context(viewport={"width": width, "height": height}, **options)
    context.set_default_timeout(1000 * PATIENCE)
    return context


def swipe(page: Page, start: int, end: int, x: int = 180) -> None:
    """Draw one finger from a height of the screen to another, as on a phone."""
    session = page.context.new_cdp_session(page)
    points = [start + (end - start) * k / 10 for k in range(11)]
    for kind, y in zip(["touchStart", *["touchMove"] * 10], points, strict=True):
        finger = {"type": kind, "touchPoints": [{"x": x, "y": y}]}
        session.send("Input.dispatchTouchEvent", finger)
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    session.detach()


def processor_seconds(browser: Browser) -> float:
    """Of all pages so far: what the clock says depends on what else a machine has to do."""
    session = browser.new_browser_cdp_session()
    found = session.send("SystemInfo.getProcessInfo")["processInfo"]
    session.detach()
    return sum(process["cpuTime"] for process in found if process["type"] == "renderer")


WORK = """() => {
  const box = document.createElement('div');
  document.body.append(box);
  for (let line = 0; line < 60; line++) {
    for (let i = 0; i < 100; i++) {
      box.append(Object.assign(document.createElement('span'), {textContent: ` word${i}`}));
    }
    box.offsetHeight;
  }
  box.remove();
}"""
WORK_SECONDS = 0.25
"""Processor time of it on the machine of the figures."""


def slowness(browser: Browser) -> float:
    """How many times as long as on the machine of the figures a page's work takes here; at least 1.

    Bounds of processor time are multiplied by it: a processor may be slow, and a shared one is.
    """
    context = new_context(browser, 1280, 900)
    page = context.new_page()
    took = []
    for _ in range(3):
        before = processor_seconds(browser)
        page.evaluate(WORK)
        took.append(processor_seconds(browser) - before)
    context.close()
    print(f"a page's work takes {min(took):.2f} s of processor here")
    return max(1.0, min(took) / WORK_SECONDS)


class Profiles:
    """Browser contexts that are lent again: each keeps what it has loaded and compiled."""

    def __init__(self, browser: Browser) -> None:
        self.browser = browser
        self.free: dict[str, list[BrowserContext]] = {}
        self.lent: list[tuple[str, BrowserContext]] = []

    def open(
        self,
        url: str,
        width: int = 1280,
        height: int = 900,
        scheme: str = "light",
        reduced_motion: str = "no-preference",
        **options: Any,
    ) -> Visitor:
        """The page in a tab of its own, of a browser that has kept nothing of any page."""
        key = repr(sorted(options.items()))
        free = self.free.setdefault(key, [])
        context = free.pop() if free else new_context(self.browser, width, height, **options)
        self.lent.append((key, context))
        visitor = Visitor(context.new_page())
        visitor.page.set_viewport_size({"width": width, "height": height})
        visitor.page.emulate_media(color_scheme=scheme, reduced_motion=reduced_motion)  # type: ignore[arg-type]
        session = context.new_cdp_session(visitor.page)
        kept = {"origin": url_origin(url), "storageTypes": "local_storage,indexeddb,cookies"}
        session.send("Storage.clearDataForOrigin", kept)
        session.detach()
        visitor.watch()
        visitor.page.goto(url)
        visitor.view.wait_for()
        return visitor

    def take_back(self) -> None:
        """Close all tabs that were opened since the last time."""
        for key, context in self.lent:
            context.set_offline(False)
            for page in context.pages:
                page.close()
            self.free[key].append(context)
        self.lent = []


def url_origin(url: str) -> str:
    parts = urlparse(url)
    return f"{parts.scheme}://{parts.netloc}"


@pytest.fixture(scope="session")
def _profiles(browser: Browser) -> Profiles:
    return Profiles(browser)


@pytest.fixture(scope="session")
def _shared(browser: Browser, studio: str) -> Visitor:
    return Profiles(browser).open(studio)


@pytest.fixture
def visitor(_shared: Visitor) -> Iterator[Visitor]:
    """A page that tests share, to save its loading, with a new chat."""
    for _ in range(2):  # the first offers to bring the last chat back
        _shared.page.click("#new")
        _shared.page.wait_for_selector('#view [data-run=""]')
    _shared.page.mouse.move(0, 0)
    yield _shared
    strays, _shared.strays = _shared.strays, []
    assert strays == []


@pytest.fixture
def visit(_profiles: Profiles, studio: str) -> Iterator[Callable[..., Visitor]]:
    """Open another page: ``visit(width=390, scheme="dark", url=...)``."""
    visitors: list[Visitor] = []

    def opened(url: str = studio, **options: Any) -> Visitor:
        visitors.append(_profiles.open(url, **options))
        return visitors[-1]

    yield opened
    strays = [stray for visitor in visitors for stray in visitor.strays]
    _profiles.take_back()
    assert strays == []
