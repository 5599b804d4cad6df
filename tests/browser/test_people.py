"""The pages Vote and Results in Chromium, over stored replies that are hostile."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from mpd_core.evaluation.votes import FILE, Votes
from mpd_core.packs import load_pack
from mpd_core.ui.server import launch
from tests.browser.conftest import MARKS, Visitor, free_port, new_context
from tests.browser.scripted import ScriptedEngine
from tests.tiny import HOSTILE
from tests.vote_fixtures import write_run

pytestmark = MARKS


@pytest.fixture
def booth(
    engine: ScriptedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, Path]]:
    """URL of an app with a stored run whose prompts and replies are hostile, and its votes."""
    monkeypatch.setenv("MPD_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    pack = load_pack("smollm2-135m")
    write_run(tmp_path / pack.spec.name / "run", pack, ("\n".join(HOSTILE),), "# <b>x</b>")
    page, url = launch(engine, host="127.0.0.1", port=free_port())
    yield url, tmp_path / FILE
    page.close(verbose=False)


def opened(browser: Browser, url: str) -> Visitor:
    """A rater's browser, at a width at which both replies stand side by side."""
    context = new_context(browser, 1280, 900)
    visitor = Visitor(context.new_page())
    visitor.watch()
    visitor.page.goto(url)
    return visitor


def outputs(page: Page) -> tuple[str, str]:
    first, second = (page.locator(f"#vote-output-{n} textarea") for n in (1, 2))
    return first.input_value(), second.input_value()


def test_a_rater_votes_by_keys_and_the_results_show_it(
    booth: tuple[str, Path], browser: Browser
) -> None:
    url, file = booth
    visitor = opened(browser, url + "/vote")
    page = visitor.page
    expect(page.locator("#vote-output-1 textarea")).not_to_have_value("")
    if shots := os.environ.get("MPD_SHOTS"):
        page.screenshot(path=f"{shots}/vote.png")
    assert page.locator("#vote-instruction textarea").input_value() == "\n".join(HOSTILE)
    for number in range(4):
        expect(page.locator("#vote-rows input:checked")).to_have_count(0)
        texts = outputs(page)
        assert any("<script>window.hacked=1</script>" in text for text in texts)
        mine = 0 if texts[0].startswith("mpd") else 1
        for key in (str(mine + 1), "0", str(2 - mine)):
            page.keyboard.press(key)
        # The last answer is changed as any group of radio buttons is.
        page.locator("#vote-row-2 input:checked").focus()
        for _ in range(2):
            page.keyboard.press("ArrowRight" if mine else "ArrowLeft")
        expect(page.locator("#vote-rows input:checked")).to_have_count(3)
        page.keyboard.press("Enter")
        expect(page.locator("#vote-progress textarea, #vote-progress input")).to_have_value(
            f"You have judged {number + 1} pair{'s' if number else ''}."
        )
    expect(page.locator("#vote-note textarea, #vote-note input")).to_have_value(
        "Thank you: you have judged every pair that there is."
    )
    votes = Votes(file).all()
    assert [dict(vote.verdicts) for vote in votes] == [{"expertise": 1, "length": 0, "tone": 1}] * 4
    assert len({vote.rater for vote in votes}) == 1
    assert page.evaluate("window.hacked") is None

    page.goto(url + "/results")
    expect(page.locator("#results-summary textarea, #results-summary input")).to_have_value(
        "4 votes by 1 rater. No pair has two raters yet."
    )
    expect(page.locator("#results-table")).to_contain_text("2 / 0 / 0")
    page.locator("#results-export").click()
    with page.expect_download() as download:
        page.locator("#results-file a[download], #results-file a[href]").first.click()
    rows = list(csv.DictReader(Path(download.value.path()).read_text().splitlines()))
    assert len(rows) == 4
    assert visitor.strays == []


def test_the_pages_look_as_the_visitor_chose_and_fit_a_phone(
    booth: tuple[str, Path], browser: Browser
) -> None:
    """The theme is one for all pages; on a phone one reply stands below the other, whole."""
    url, _ = booth
    visitor = opened(browser, url + "/results")
    page = visitor.page
    expect(page.locator("#results-summary textarea, #results-summary input")).to_have_value(
        "Nobody has voted yet: the page Vote asks for it."
    )
    assert page.locator("#results-table table").count() == 0
    was = page.locator("body.dark").count()
    page.click(".mpd-theme")
    page.goto(url + "/vote")
    expect(page.locator("#vote-output-1 textarea")).not_to_have_value("")
    assert page.locator("body.dark").count() == 1 - was
    page.set_viewport_size({"width": 390, "height": 844})
    visitor.wait_for_frames()
    boxes = [page.locator(f"#vote-output-{n}").bounding_box() for n in (1, 2)]
    assert boxes[0]
    assert boxes[1]
    assert boxes[0]["y"] + boxes[0]["height"] <= boxes[1]["y"]
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    cut = "all => all.map(text => text.scrollHeight - text.clientHeight)"
    assert max(page.locator("#vote-outputs textarea").evaluate_all(cut)) <= 2
    serious = Axe().run(page, context={"include": [[".mpd-people"], ["#header"]]}).response
    assert [v["id"] for v in serious["violations"] if v["impact"] in ("serious", "critical")] == []
    assert visitor.strays == []
    page.context.close()


def test_a_choice_that_follows_another_at_once_is_held_as_long(
    booth: tuple[str, Path], browser: Browser
) -> None:
    """What holds the earlier one must not use up the time of the later one."""
    url, _ = booth
    page = opened(browser, url + "/vote").page
    expect(page.locator("#vote-output-1 textarea")).not_to_have_value("")
    page.evaluate(
        """() => { const press = key => document.body.dispatchEvent(
            new KeyboardEvent('keydown', {key, bubbles: true}));
          press('2');
          document.querySelector('#vote-next').click();  // refused: two rows are open
          press('2'); }"""
    )
    expect(page.locator("#vote-rows input:checked")).to_have_count(2)
    page.wait_for_timeout(1400)
    page.evaluate(TAKEN_BACK)
    expect(page.locator("#vote-rows input:checked")).not_to_have_count(0)
    page.context.close()


TAKEN_BACK = """() => document.querySelectorAll('#vote-rows input:checked')
  .forEach(input => { input.checked = false; })"""


def test_a_choice_that_the_page_takes_back_is_made_again(
    booth: tuple[str, Path], browser: Browser
) -> None:
    """The rows of a new pair may be drawn after its texts, on what was chosen meanwhile."""
    url, file = booth
    page = opened(browser, url + "/vote").page
    expect(page.locator("#vote-output-1 textarea")).not_to_have_value("")
    for key, count in (("2", 1), ("0", 2), ("1", 3)):
        page.keyboard.press(key)
        page.evaluate(TAKEN_BACK)
        expect(page.locator("#vote-rows input:checked")).to_have_count(count)
    places = page.locator("#vote-rows fieldset").evaluate_all(
        "rows => rows.map(r => [...r.querySelectorAll('input')].findIndex(i => i.checked))"
    )
    assert places == [2, 1, 0]
    first = outputs(page)[0].startswith("mpd")
    page.keyboard.press("Enter")
    expect(page.locator("#vote-progress textarea, #vote-progress input")).to_have_value(
        "You have judged 1 pair."
    )
    (vote,) = Votes(file).all()
    mine = -1 if first else 1
    assert dict(vote.verdicts) == {"expertise": mine, "length": 0, "tone": -mine}


def test_an_open_row_is_asked_for_and_nothing_is_kept(
    booth: tuple[str, Path], browser: Browser
) -> None:
    url, file = booth
    page = opened(browser, url + "/vote").page
    expect(page.locator("#vote-output-1 textarea")).not_to_have_value("")
    page.keyboard.press("2")
    expect(page.locator("#vote-rows input:checked")).to_have_count(1)
    page.locator("#vote-next").click()
    expect(page.locator("#vote-note textarea, #vote-note input")).to_have_value(
        "Choose Output 1, Output 2 or Tie in every row first."
    )
    expect(page.locator("#vote-rows input:checked")).to_have_count(1)
    assert Votes(file).all() == []
