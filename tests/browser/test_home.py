"""What is taken home: arrays for numpy, and pages that open without a server or a network."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from mpd_core.analysis import analyse, trace_from_dict
from mpd_core.ui.standalone import report_page
from tests.browser.conftest import MARKS, Visitor, new_context
from tests.browser.scripted import HOSTILE, ScriptedEngine
from tests.browser.test_keep import a_trace, download, replay

pytestmark = MARKS
Visit = Callable[..., Visitor]


def saved(visitor: Visitor, kind: str, file: Path) -> Path:
    """Save the newest visible reply as a kind of file."""
    file.write_bytes(download(visitor, kind))
    return file


def test_npz_holds_every_number_of_the_trace(
    visitor: Visitor, engine: ScriptedEngine, tmp_path: Path
) -> None:
    visitor.run("hostile reply")
    steps = engine.streams[-1].steps
    file = saved(visitor, "NPZ", tmp_path / "reply.npz")
    with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as arrays:
        experts = arrays["expert"].tolist()
        assert arrays["text"].tolist() == [step.text for step in steps]
        assert arrays["token_id"].tolist() == [step.token_id for step in steps]
        weights = [[step.weights[e] for e in experts] for step in steps]
        assert arrays["weight"] == pytest.approx(np.array(weights), rel=1e-6)
        for name in ("probability", "entropy", "divergence", "disagreement"):
            values = [getattr(step, name) for step in steps]
            assert arrays[name] == pytest.approx(np.array(values), rel=1e-6, abs=1e-9)
        assert arrays["top_probability"].shape == arrays["top_text"].shape
        assert arrays["top_logprob"].shape == (*arrays["top_text"].shape, len(experts))
        row, step = arrays["top_token_id"][2], steps[2]
        assert row[: len(step.top_k)].tolist() == [c.token_id for c in step.top_k]
        assert set(row[len(step.top_k) :]) <= {-1}
        assert math.isnan(arrays["top_probability"].min()) or (row >= 0).all()
        assert json.loads(str(arrays["trace_json"]))["prompt"] == "hostile reply"


def test_npz_writes_what_is_impossible_as_minus_infinity(visitor: Visitor, tmp_path: Path) -> None:
    replay(visitor, json.dumps(a_trace()))
    visitor.wait("")
    with np.load(saved(visitor, "NPZ", tmp_path / "x.npz"), allow_pickle=False) as arrays:
        assert arrays["logprob"][:, 2].tolist() == [-math.inf] * 3
        assert arrays["responsibility"].shape == (3, 3)


@pytest.fixture
def offline(browser: Browser) -> Callable[[Path], tuple[Page, list[str]]]:
    """Open a file without a network; what it tried to load, and what went wrong."""

    def opened(file: Path) -> tuple[Page, list[str]]:
        context = new_context(browser, 1280, 900)
        page, strays = context.new_page(), list[str]()
        page.on("request", lambda request: strays.append(request.url))
        page.on("pageerror", lambda error: strays.append(str(error)))
        page.on("dialog", lambda dialog: (strays.append("dialog"), dialog.dismiss()))
        page.on("console", lambda m: strays.append(m.text) if m.type == "error" else None)
        context.set_offline(True)
        page.goto(file.as_uri())
        return page, strays

    return opened


def test_a_reply_as_a_page_opens_offline_and_hostile_text_stays_text(
    visitor: Visitor, tmp_path: Path, offline: Callable[[Path], tuple[Page, list[str]]]
) -> None:
    run = visitor.run("hostile reply </script><script>window.pwned=4</script>")
    file = saved(visitor, "HTML", tmp_path / "reply.html")
    text = visitor.text(run)
    assert HOSTILE in text
    assert HOSTILE not in file.read_text("utf-8")
    page, strays = offline(file)
    page.wait_for_selector('#view [data-done="true"]')
    assert page.locator(".strip").evaluate("node => node.textContent") == text
    page.locator(".tok").nth(6).click()
    page.wait_for_selector('.mpd-side[data-pinned="6"]')
    page.locator(".mpd-whatif summary").click()
    page.get_by_role("button", name="uniform").click()
    assert page.locator(".mpd-force .mpd-value").all_inner_texts() == ["33%"] * 3
    hidden = page.locator(".mpd-branch, .mpd-go, .mpd-explore, .mpd-actions .live")
    assert not any(hidden.nth(k).is_visible() for k in range(hidden.count()))
    assert page.evaluate("window.pwned") is None
    assert page.locator("main img, main script, main a").count() == 0
    page.locator(".mpd-keep summary").click()
    with page.expect_download() as kept:
        page.get_by_role("button", name="JSON", exact=True).click()
    again = json.loads(Path(kept.value.path()).read_text("utf-8"))
    assert trace_from_dict(again).text == text
    assert [stray for stray in strays if not stray.startswith(("file:", "blob:"))] == []
    page.context.close()


def test_an_analysis_as_a_page_opens_offline(
    tmp_path: Path, offline: Callable[[Path], tuple[Page, list[str]]]
) -> None:
    data = a_trace(9, preference="<img src=x onerror=window.pwned=1>")
    for step in data["steps"]:
        step["text"] = HOSTILE
    trace = trace_from_dict({**data, "text": HOSTILE * 9})
    file = tmp_path / "report.html"
    file.write_text(report_page(analyse({"<b>a</b>": trace})), encoding="utf-8")
    page, strays = offline(file)
    page.wait_for_selector('.mpd-analysis[data-ready="true"]')
    assert page.locator(".mpd-plot-one .main-svg").count() >= 4
    assert HOSTILE[:20] in page.locator(".mpd-numbers").first.inner_text()
    assert page.evaluate("window.pwned") is None
    assert page.locator("main img, main a:not(.modebar-btn)").count() == 0
    assert [stray for stray in strays if not stray.startswith("file:")] == []
    page.context.close()


def test_the_tab_analyses_this_conversation_and_files(visit: Visit, tmp_path: Path) -> None:
    visitor = visit()
    page = visitor.page
    visitor.run("hostile reply")
    visitor.run("Explain photosynthesis.")
    page.get_by_role("tab", name="Analyse").click()
    page.get_by_role("button", name="Replies of this conversation").click()
    page.wait_for_selector('.mpd-analysis[data-ready="true"]')
    assert page.locator(".mpd-analysis-sum").inner_text().startswith("2 replies, ")
    plots = page.locator("#analyse .mpd-plot-one").evaluate_all(
        "all => all.map(f => [f.clientWidth, f.querySelector('.main-svg').clientWidth])"
    )
    assert len(plots) == 4
    assert all(0 < drawn <= room for room, drawn in plots)
    assert page.evaluate("window.pwned") is None
    shares = page.locator("#analyse .modebar-btn").evaluate_all(
        "all => all.map(b => b.dataset.title)"
    )
    assert not [name for name in shares if "share" in name.lower()]
    with page.expect_download() as kept:
        page.get_by_role("button", name="Save as CSV").click()
    assert "content word" in Path(kept.value.path()).read_text("utf-8")
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text(json.dumps(a_trace()), encoding="utf-8")
    bad.write_text("{", encoding="utf-8")
    page.set_input_files("#analyse input[type=file]", [good, bad])
    page.wait_for_selector("#analyse .mpd-notice:has-text('bad.json: is no JSON')")
    page.set_input_files("#analyse input[type=file]", [good])
    page.wait_for_selector(".mpd-analysis-sum:has-text('1 reply, 3 tokens')")
    page.get_by_role("tab", name="Chat").click()
    expect(page.locator(".mpd-turn:visible")).to_have_count(2)


def test_who_wrote_alone_is_left_out_of_plots_and_colours_are_told_apart(
    visit: Visit, tmp_path: Path
) -> None:
    """A weight of 1 says nothing, and one of another pack's experts takes no pole's colour."""
    page = visit().page
    files = []
    for k, weights in enumerate(
        [{"base": 1.0}, {"friendly": 0.4, "concise": 0.4, "stranger": 0.2}]
    ):
        trace = a_trace(poles=list(weights))
        for step in trace["steps"]:
            step.update(weights=weights, logprobs=dict.fromkeys(weights, -1.0), top_k=[])
        files.append(tmp_path / f"{k}.json")
        files[-1].write_text(json.dumps(trace), encoding="utf-8")
    page.get_by_role("tab", name="Analyse").click()
    page.set_input_files("#analyse input[type=file]", files)
    page.wait_for_selector('.mpd-analysis[data-ready="true"]')
    drawn = page.locator(".mpd-plot-one .js-plotly-plot").first.evaluate(
        "node => node.data.map(one => [one.name, one.line.color])"
    )
    assert sorted(name for name, _ in drawn) == ["concise", "friendly", "stranger"]
    assert len({colour for _, colour in drawn}) == 3
    assert "base wrote alone" in page.locator(".mpd-analysis-sum").inner_text()


def test_buttons_of_a_plot_cover_neither_plot_nor_legend_on_a_phone(visit: Visit) -> None:
    visitor = visit(width=320, height=700)
    page = visitor.page
    visitor.run("echo plots on a phone")
    page.get_by_role("tab", name="Analyse").click()
    page.get_by_role("button", name="Replies of this conversation").click()
    page.wait_for_selector('.mpd-analysis[data-ready="true"]')
    covered = page.locator("#analyse .mpd-plot-one").evaluate_all(
        """all => all.map(one => {
          const bar = one.querySelector('.modebar-container > .modebar').getBoundingClientRect();
          const meets = box => box.width > 0 && bar.left < box.right && box.left < bar.right
            && bar.top < box.bottom && box.top < bar.bottom;
          return bar.width > 0 ? [...one.querySelectorAll('.legend, .nsewdrag')]
            .map(node => node.getBoundingClientRect()).filter(meets).length : 'no buttons';
        })"""
    )
    assert covered == [0, 0, 0, 0]


def test_a_conversation_without_replies_is_said(visit: Visit) -> None:
    page = visit().page
    page.click("#new")
    page.get_by_role("tab", name="Analyse").click()
    page.get_by_role("button", name="Replies of this conversation").click()
    page.wait_for_selector("#analyse .mpd-notice:has-text('no finished reply yet')")
