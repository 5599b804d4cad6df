"""How the page uses its room: widths, shifts, phones, tablets, and what a first visit weighs."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable
from email.message import Message

import pytest
from playwright.sync_api import Browser, Route

from tests.browser.conftest import MARKS, Visitor, new_context, swipe

pytestmark = MARKS
Visit = Callable[..., Visitor]
CONTRASTS = """nodes => {
  const read = colour => { const n = colour.match(/[0-9.]+/g).map(Number);
    return [...n.slice(0, 3), n[3] ?? 1]; };
  const over = (top, below) => below.map((c, k) => top[k] * top[3] + c * (1 - top[3]));
  const light = rgb => rgb.map(c => c / 255)
    .map(c => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((all, c, k) => all + c * [0.2126, 0.7152, 0.0722][k], 0);
  const behind = node => (node === null ? [255, 255, 255]
    : over(read(getComputedStyle(node).backgroundColor), behind(node.parentElement)));
  return nodes.map(node => {
    const ground = behind(node.parentElement);
    const [a, b] = [ground, over(read(getComputedStyle(node).fill), ground)].map(light);
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  });
}"""
SIDEWAYS = "document.documentElement.scrollWidth - window.innerWidth"


def test_the_page_keeps_its_width_and_place(visit: Visit) -> None:
    visitor = visit(width=1440)
    page = visitor.page
    page.evaluate(
        """() => { window.shift = 0; new PerformanceObserver(list => {
          for (const e of list.getEntries()) if (!e.hadRecentInput) window.shift += e.value;
        }).observe({type: 'layout-shift', buffered: false}); }"""
    )
    wide = "document.querySelector('.gradio-container').offsetWidth"
    run = "JSON.stringify(document.querySelector('#run').getBoundingClientRect())"
    before = page.evaluate(wide), page.evaluate(run)
    assert before[0] == 1440
    visitor.run("echo one")
    assert (page.evaluate(wide), page.evaluate(run)) == before
    page.click("#new")
    page.wait_for_selector('#view [data-run=""]')
    assert (page.evaluate(wide), page.evaluate(run)) == before
    visitor.run("held and steady", wait=False)
    assert (page.evaluate(wide), page.evaluate(run)) == before
    assert page.evaluate("window.shift") < 0.1


@pytest.mark.parametrize("width", [390, 1440])
def test_nothing_jumps_while_the_page_and_its_example_come(
    browser: Browser, studio: str, width: int
) -> None:
    """On a slow line, where parts come one by one; but for what Gradio shows before our page."""
    context = new_context(browser, width, 844)
    page = context.new_page()
    page.add_init_script(
        """window.shift = 0; new PerformanceObserver(list => {
          for (const e of list.getEntries()) {
            const loader = e.sources.some(s => s.node?.matches?.('.translucent, .loading'));
            if (!e.hadRecentInput && !loader) window.shift += e.value;
          }
        }).observe({type: 'layout-shift', buffered: true});"""
    )
    page.add_init_script(  # after 5 s the page is shown as it is, which a busy machine may need
        """addEventListener('DOMContentLoaded', () => {
          const style = document.createElement('style');
          style.textContent = '#studio { animation: none !important; }';
          document.head.append(style); });"""
    )
    page.route("**/*.css", _slowly)
    page.goto(studio)
    page.wait_for_selector(".strip .tok")
    page.wait_for_selector(".mpd-version[data-played]")
    assert page.evaluate("window.shift") < 0.1
    context.close()


def _slowly(route: Route) -> None:
    answer = route.fetch()
    time.sleep(0.1)
    route.fulfill(response=answer)


def test_no_width_needs_sideways_scrolling(visit: Visit) -> None:
    visitor = visit()
    run = visitor.run("hostile " + "unbroken" * 40)
    visitor.pin(run, 3)
    for width in (320, 390, 768, 820, 1000, 1280, 2560):
        visitor.page.set_viewport_size({"width": width, "height": 900})
        visitor.wait_for_frames()
        fits(visitor, width)


def fits(visitor: Visitor, width: int) -> None:
    """Nothing of the page is beyond its edge."""
    page = visitor.page
    assert page.evaluate(SIDEWAYS) <= 0, width
    assert page.locator("#run").is_visible()
    for part in (".mpd-theme", ".mpd-side", ".mpd-log", ".mpd-figure", "#more", "#buttons"):
        box = page.locator(part).bounding_box()
        assert box, (part, width)
        assert box["x"] >= 0, (part, width)
        assert box["x"] + box["width"] <= width, (part, width)
    inspector = page.locator(".mpd-side")
    if (
        width >= 900
    ):  # the toggles stand beside the reply, and can be pressed while a token is pinned
        toggles, numbers = page.locator("#controls").bounding_box(), inspector.bounding_box()
        assert toggles
        assert numbers
        assert toggles["x"] + toggles["width"] <= numbers["x"]
    assert inspector.evaluate("node => node.scrollWidth - node.clientWidth") <= 0
    beyond = page.locator(".dimension label:has(input)").evaluate_all(
        "all => all.map(l => l.getBoundingClientRect().right"
        " - l.parentNode.getBoundingClientRect().right)"
    )
    assert len(beyond) >= 9
    assert max(beyond) <= 0


def test_the_map_follows_the_window(visit: Visit) -> None:
    visitor = visit(width=1400)
    visitor.run("Explain photosynthesis.")
    visitor.wait_for_map()
    fitting = """() => {
      const canvas = document.querySelector('.mpd-heat canvas');
      const room = canvas.parentNode.clientWidth;
      return canvas.width === Math.round(room * devicePixelRatio) && canvas.offsetWidth === room;
    }"""
    for width in (1400, 1000, 820, 400, 1300):
        visitor.page.set_viewport_size({"width": width, "height": 844})
        visitor.page.wait_for_function(fitting)
        assert visitor.page.evaluate(SIDEWAYS) <= 0


def test_a_short_reply_on_a_wide_screen_leaves_no_hole(visit: Visit) -> None:
    """The map stands beside it; several replies side by side have the whole width."""
    visitor = visit(width=2560, height=1300)
    page = visitor.page
    visitor.run("echo one")
    visitor.wait_for_map()
    log, figure = (page.locator(part).bounding_box() for part in (".mpd-log", ".mpd-figure"))
    assert log
    assert figure
    assert log["height"] <= 320
    assert figure["x"] >= log["x"] + log["width"]
    assert figure["y"] == pytest.approx(log["y"], abs=1)
    page.locator(".last").get_by_role("button", name="Ask again").click()
    page.get_by_role("button", name="Side by side").click()
    visitor.wait_for_frames()
    log, figure = (page.locator(part).bounding_box() for part in (".mpd-log", ".mpd-figure"))
    assert log
    assert figure
    assert figure["y"] >= log["y"] + log["height"]
    assert log["width"] == pytest.approx(figure["width"], abs=1)


def phone(visit: Visit) -> Visitor:
    return visit(width=390, height=844, has_touch=True, is_mobile=True)


@pytest.mark.parametrize(("width", "height"), [(390, 844), (360, 740), (768, 1024)])
def test_instruction_toggles_and_reply_share_a_small_screen(
    visit: Visit, width: int, height: int
) -> None:
    """A visitor presses Run and sees what is written and Stop, and scrolls for neither."""
    visitor = visit(width=width, height=height, has_touch=True, is_mobile=True)
    page = visitor.page

    def place(part: str) -> tuple[float, float]:
        box = page.locator(part).first.bounding_box()
        assert box, part
        return box["y"], box["y"] + box["height"]

    order = ["#prompt", "#dimensions", "#run", ".mpd-log"]
    assert page.evaluate("window.scrollY") == 0
    bottoms = [place(part)[1] for part in order[:3]]
    assert max(bottoms) <= place(".mpd-log")[0] < height * 0.7
    assert place(".mpd-log")[1] <= place("#more")[0] < place("#advanced")[0]
    visitor.run("held after 60: a tale", wait=False)
    page.wait_for_function(
        """() => {
          const seen = node => {
            const box = node.getBoundingClientRect();
            return box.height > 0 && box.top >= 0 && box.bottom <= window.innerHeight;
          };
          const stop = [...document.querySelectorAll('.mpd-stop, #stop')].find(seen);
          const tokens = [...document.querySelectorAll('.last .strip .tok')];
          return tokens.length > 40 && seen(tokens.at(-1)) && stop;
        }"""
    )
    page.evaluate("document.querySelector('#stop').click()")
    visitor.page.wait_for_selector('#view [data-done="true"]')


@pytest.mark.parametrize("asked", [False, True])
def test_a_finger_on_the_reply_moves_the_page(visit: Visit, asked: bool) -> None:
    """A box that scrolls nothing itself must not hold on to a finger that means the page."""
    visitor = phone(visit)
    page = visitor.page
    if asked:
        visitor.run("Explain photosynthesis.")
    page.wait_for_selector(".strip .tok")
    page.evaluate("window.scrollTo(0, 0)")
    box = page.locator(".mpd-log").bounding_box()
    assert box
    start = int(box["y"]) + 150
    swipe(page, start, start - 300)
    page.wait_for_function("window.scrollY > 150")
    for _ in range(12):  # a quick finger flings the page further than it moved
        if page.evaluate("window.scrollY") < 50:
            break
        swipe(page, 300, 700)
        page.wait_for_timeout(100)
    assert page.evaluate("window.scrollY") < 50


def test_a_wheel_over_any_part_moves_the_page(visit: Visit) -> None:
    visitor = visit(width=1280, height=520)
    page = visitor.page
    run = visitor.run("echo one")
    visitor.pin(run, 0)
    for part in (".mpd-log", ".mpd-side", ".mpd-figure"):
        page.evaluate("window.scrollTo(0, 0)")
        page.locator(part).hover()
        place = page.evaluate("window.scrollY")
        way = 1 if place < 30 else -1  # to where the page has room
        for _ in range(12):  # through what the part itself has to scroll
            page.mouse.wheel(0, 400 * way)
            page.wait_for_timeout(30)
            if abs(page.evaluate("window.scrollY") - place) > 25:
                break
        page.wait_for_function("place => Math.abs(window.scrollY - place) > 25", arg=place)


def test_a_phone_leads_back_to_the_instruction(visit: Visit) -> None:
    visitor = phone(visit)
    visitor.run("long story, 256 tokens")
    page = visitor.page
    following = page.get_by_role("button", name="Ask next")
    page.wait_for_function(
        "box => { const at = box.getBoundingClientRect();"
        " return window.scrollY > 200 && at.top >= 0 && at.bottom <= window.innerHeight; }",
        arg=following.element_handle(),
    )
    following.tap()
    page.wait_for_function("window.scrollY === 0")
    assert page.evaluate("document.activeElement.closest('#prompt') !== null")


def test_a_phone_shows_the_reply_as_it_is_written_and_stop(visit: Visit) -> None:
    visitor = phone(visit)
    visitor.run("held after 60: a tale", wait=False)
    visitor.page.wait_for_function("document.querySelectorAll('.strip .tok').length === 60")
    end = "document.querySelector('.tok:last-of-type').getBoundingClientRect()"
    assert 0 < visitor.page.evaluate(f"{end}.bottom") < 844
    stop = visitor.page.locator(".mpd-stop")
    box = stop.bounding_box()
    assert box
    assert box["y"] + box["height"] <= 844
    assert box["height"] >= 44
    stop.tap()
    visitor.page.wait_for_selector('#view [data-done="true"]')


def test_a_tap_beside_a_token_on_a_phone_shows_its_numbers(visit: Visit) -> None:
    visitor = phone(visit)
    run = visitor.run("Explain photosynthesis.")
    page = visitor.page
    token = visitor.strip(run).locator(".tok").nth(1)
    token.scroll_into_view_if_needed()
    # at the screen's very edge, where a part of a pixel is cut off
    token.evaluate("node => window.scrollBy(0, Math.ceil(node.getBoundingClientRect().top))")
    box = token.bounding_box()
    assert box
    page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] + 4)
    page.wait_for_selector('.mpd-side[data-pinned="1"]')
    sheet, pinned = (page.locator(s).bounding_box() for s in (".mpd-side", ".tok.pinned"))
    assert sheet
    assert pinned
    assert sheet["y"] + sheet["height"] == pytest.approx(844, abs=1)
    assert pinned["y"] >= 0
    assert pinned["y"] + pinned["height"] <= sheet["y"]
    page.get_by_label("Token after").tap()
    page.wait_for_selector('.mpd-side[data-pinned="2"]')
    page.get_by_label("Release the pinned token").tap()
    page.wait_for_selector('.mpd-side[data-pinned=""]')


def test_a_token_that_is_clicked_in_a_small_window_shows_its_own_numbers(visit: Visit) -> None:
    """The sheet has the page scroll under a mouse that does not move."""
    visitor = visit(width=820, height=900)
    run = visitor.run("echo " + "word " * 160)
    page = visitor.page
    token = visitor.strip(run).locator(".tok").nth(90)
    token.evaluate("node => window.scrollBy(0, node.getBoundingClientRect().top - 700)")
    before = page.evaluate("window.scrollY")
    token.click()
    page.wait_for_selector('.mpd-side[data-pinned="90"]')
    page.wait_for_function("before => window.scrollY > before", arg=before)
    visitor.wait_for_frames()
    assert page.locator(".mpd-side").get_attribute("data-pinned") == "90"


def test_what_is_pressed_on_a_phone_is_large_enough(visit: Visit) -> None:
    visitor = phone(visit)
    run = visitor.run("Explain photosynthesis.")
    visitor.pin(run, 2)
    pressed = "#buttons button, #more button, .mpd-actions button, .mpd-step, .mpd-views button"
    sizes = visitor.page.locator(pressed).evaluate_all(
        "all => all.filter(b => b.offsetParent)"
        ".map(b => [b.innerText, b.offsetWidth, b.offsetHeight])"
    )
    assert len(sizes) > 12
    small = [size for size in sizes if min(size[1:]) < 40]
    assert small == []


def test_pages_travel_compressed(studio: str) -> None:
    def answer(**headers: str) -> Message:
        asked = urllib.request.Request(studio, headers={"Accept-Encoding": "gzip", **headers})
        with urllib.request.urlopen(asked) as response:
            return response.headers

    page = answer(Accept="text/html,*/*")
    assert page["Content-Encoding"] == "gzip"
    assert int(page["Content-Length"]) < 120_000
    assert answer(Accept="text/event-stream")["Content-Encoding"] is None


def test_the_first_visit_is_light_and_plotly_comes_when_it_is_asked_for(visit: Visit) -> None:
    sizes: list[int] = []
    visitor = visit()
    page = visitor.page
    page.on("response", lambda r: sizes.append(int(r.headers.get("content-length") or 0)))
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    session.send("Network.setCacheDisabled", {"cacheDisabled": True})
    loaded = [0]
    session.on(
        "Network.loadingFinished",
        lambda e: loaded.__setitem__(0, loaded[0] + int(e["encodedDataLength"])),
    )
    page.reload()
    page.wait_for_function("window.mpdStudio !== undefined")
    page.wait_for_load_state("networkidle")
    page.wait_for_selector(".strip .tok")
    print(f"first visit {loaded[0] / 1000:.0f} kB")
    assert loaded[0] < 700_000
    assert page.evaluate("window.Plotly") is None
    run = visitor.run("hostile <b>plot</b>")
    page.click(".mpd-explore")
    page.wait_for_selector('.mpd-dialog[data-ready="true"] .mpd-plot .modebar')
    buttons = page.locator(".mpd-plot .modebar-btn").evaluate_all(
        "all => all.map(b => b.dataset.title)"
    )
    assert "Save as PNG" in buttons
    assert not [name for name in buttons if "share" in name.lower()]  # text goes to no other server
    rises = page.locator(".mpd-plot").evaluate("node => node.data[0].z.flat().map(Math.abs)")
    assert 1 < max(rises) <= 100  # points, as everywhere on the page
    assert page.locator(".mpd-plot").evaluate("node => node.data[0].z.length") == 3
    assert page.locator(".mpd-plot").evaluate("node => node.data[0].z[0].length") == int(
        page.locator(f'.strip[data-run="{run}"] .tok').count()
    )
    assert page.evaluate("window.pwned") is None
    assert page.locator(".mpd-plot img, .mpd-plot script").count() == 0
    contrasts = page.locator(".mpd-plot .modebar-btn svg path").evaluate_all(CONTRASTS)
    assert len(contrasts) > 3
    assert min(contrasts) >= 3, contrasts  # of signs, by WCAG 1.4.11
    page.get_by_role("button", name="Close").click()


@pytest.mark.parametrize("width", [320, 1440])
def test_names_of_tokens_have_room_in_the_explored_map(visit: Visit, width: int) -> None:
    """Also after zooming in, which makes room for more of them."""
    visitor = visit(width=width, height=800)
    page = visitor.page
    visitor.run("echo " + "word " * 40)
    page.click(".mpd-explore")
    page.wait_for_selector('.mpd-dialog[data-ready="true"]')
    apart = """() => [...document.querySelectorAll('.mpd-plot .xtick text')]
      .map(one => one.getBoundingClientRect()).map(box => (box.left + box.right) / 2)
      .map((x, k, all) => x - all[k - 1]).slice(1)"""
    whole = page.evaluate(apart)
    assert min(whole) > 14
    page.evaluate(
        "Plotly.relayout(document.querySelector('.mpd-plot'), {'xaxis.range': [9.5, 14.5]})"
    )
    page.wait_for_function(f"({apart})().length === 4")
    overlaps = page.evaluate(
        """() => { const box = s => document.querySelector(s).getBoundingClientRect();
          const [bar, plot] = [box('.mpd-plot .cbfills'), box('.mpd-plot .nsewdrag')];
          return bar.left < plot.right && plot.left < bar.right && bar.top < plot.bottom
            && plot.top < bar.bottom; }"""
    )
    assert not overlaps
