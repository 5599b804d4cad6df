"""Writing on from a token: under other weights or with another token, kept beside the original."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from playwright.sync_api import Locator, expect

from mpd_core.analysis import trace_from_dict
from mpd_core.request import Branch
from tests.browser.conftest import MARKS, Visitor
from tests.browser.scripted import HOSTILE, SPEECH, ScriptedEngine
from tests.browser.test_inspect import force
from tests.browser.test_keep import replay, text_of

pytestmark = MARKS
Visit = Callable[..., Visitor]
STEP = 6


def pinned(visitor: Visitor, prompt: str = "Explain photosynthesis.") -> str:
    """A reply with a pinned token and open sliders."""
    run = visitor.run(prompt)
    visitor.pin(run, STEP)
    if not visitor.page.locator(".mpd-whatif").evaluate("node => node.open"):
        visitor.page.locator(".mpd-whatif summary").click()
    return run


def press(visitor: Visitor, name: str) -> str:
    """Press a button of the inspector that writes a reply; returns the new run."""
    before = visitor.view.get_attribute("data-run")
    visitor.page.mouse.move(0, 0)  # a token under the pointer is shown instead of the pinned one
    visitor.page.locator(".mpd-side").get_by_role("button", name=name).click()
    return visitor.wait(before)


def pager(visitor: Visitor) -> Locator:
    return visitor.page.locator(".mpd-pager:visible")


@pytest.mark.parametrize(
    ("button", "lasting"), [("Regenerate this token", False), ("… and all that follow", True)]
)
def test_forced_weights_reach_the_engine_and_its_steps_the_page(
    visitor: Visitor, engine: ScriptedEngine, button: str, lasting: bool
) -> None:
    run = pinned(visitor)
    whole = engine.streams[-1].steps
    force(visitor, [0.2, 0.5, 0.3])
    made = press(visitor, button)
    branch = engine.streams[-1].request.branch
    assert branch is not None
    assert branch.prefix == tuple(step.token_id for step in whole[:STEP])
    assert (branch.token, branch.lasting) == (None, lasting)
    assert branch.weights == pytest.approx((0.2, 0.5, 0.3), abs=1e-9)
    assert made != run
    assert visitor.text(made) == SPEECH
    assert visitor.strip(made).locator(".tok").count() == len(whole)
    visitor.pin(made, STEP)
    rows = visitor.page.locator(".mpd-detail-rows .mpd-value").all_inner_texts()
    assert rows == ["20%", "50%", "30%"]
    said = f"from token {STEP + 1} {'on' if lasting else 'alone'}: elementary 20%"
    assert said in visitor.page.locator(".mpd-made:visible").inner_text()


def test_another_token_is_chosen_by_pressing_it(visitor: Visitor, engine: ScriptedEngine) -> None:
    pinned(visitor)
    step = engine.streams[-1].steps[STEP]
    other = next(c for c in step.top_k if c.token_id != step.token_id)
    before = visitor.view.get_attribute("data-run")
    visitor.page.mouse.move(0, 0)
    visitor.page.get_by_label(f"Write on from here with “{other.text}”").first.click()
    made = visitor.wait(before)
    prefix = tuple(s.token_id for s in engine.streams[-2].steps[:STEP])
    assert engine.streams[-1].request.branch == Branch(prefix, token=other.token_id)
    assert visitor.strip(made).locator(".tok").nth(STEP).inner_text() == other.text.strip()
    assert visitor.strip(made).locator(".tok.branched").get_attribute("data-i") == str(STEP)


def test_branches_stand_beside_the_original_with_undo_and_redo(visit: Visit) -> None:
    visitor = visit()
    first = pinned(visitor)
    second = press(visitor, "Regenerate this token")
    visitor.pin(second, STEP)
    third = press(visitor, "… and all that follow")
    visible = visitor.page.locator(".strip:visible")
    for button, run in (("Undo", second), ("Undo", first), ("Redo", second), ("Redo", third)):
        pager(visitor).get_by_role("button", name=button).click()
        visitor.page.wait_for_selector(f'#view [data-run="{run}"]')
        assert visible.get_attribute("data-run") == run
    assert pager(visitor).get_by_role("button", name="Redo").is_disabled()
    assert "3 of 3" in pager(visitor).inner_text()
    visitor.strip(third).locator(".tok").first.focus()
    visitor.page.keyboard.press("Control+z")
    visitor.page.wait_for_selector(f'#view [data-run="{second}"]')
    visitor.page.keyboard.press("Control+Shift+z")
    visitor.page.wait_for_selector(f'#view [data-run="{third}"]')
    visitor.page.reload()
    visitor.page.wait_for_selector(f'.strip[data-run="{third}"] .tok.branched')
    assert visitor.text(third) == SPEECH
    pager(visitor).get_by_role("button", name="Undo").click()
    visitor.page.wait_for_selector(f'#view [data-run="{second}"]')


def test_versions_are_walked_by_the_keyboard_alone(visitor: Visitor) -> None:
    page = visitor.page
    run = visitor.run("Explain photosynthesis.")
    visitor.pin(run, 2)
    page.locator(".mpd-go").first.focus()
    page.keyboard.press("Enter")
    branch = visitor.wait(run)
    expect(page.locator(".mpd-log")).to_be_focused()
    focused = "document.activeElement.ariaLabel || document.activeElement.textContent"
    page.get_by_label("Version before").focus()
    for shown in (run, branch):
        page.keyboard.press("Enter")
        page.wait_for_selector(f'#view [data-run="{shown}"]')
        assert page.evaluate(focused) == "Version before"
    page.get_by_role("button", name="Undo").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(f'#view [data-run="{run}"]')
    for name in ("Side by side", "One at a time", "Side by side"):  # Undo is off at the first one
        assert page.evaluate(focused) == name
        page.keyboard.press("Enter")
    page.locator(".mpd-actions").get_by_role("button", name="Open").last.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(f'#view [data-run="{branch}"]')
    assert page.evaluate(focused) == "Side by side"


def test_a_branch_that_is_refused_leaves_the_original(
    visitor: Visitor, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mpd_core.errors import RequestError

    run = pinned(visitor)

    def refuse(_: object) -> None:
        raise RequestError("branch.weights: give 3 weights.")

    monkeypatch.setattr(engine, "submit", refuse)
    visitor.page.mouse.move(0, 0)
    visitor.page.get_by_role("button", name="Regenerate this token").click()
    visitor.page.wait_for_selector(".mpd-notice:has-text('give 3 weights')")
    visitor.page.wait_for_selector(f'#view [data-run="{run}"][data-done="true"]')
    assert visitor.page.locator(f'.strip[data-run="{run}"]').is_visible()
    assert visitor.page.locator(".mpd-pager button").count() == 0


def test_a_branch_is_exported_as_a_whole_and_comes_back(visitor: Visitor) -> None:
    pinned(visitor, "hostile reply")
    made = press(visitor, "… and all that follow")
    text = text_of(visitor, "JSON")
    trace = trace_from_dict(json.loads(text))
    assert HOSTILE in trace.text
    assert [s.index for s in trace.steps] == list(range(len(trace.steps)))
    assert trace.branch is not None
    assert len(trace.branch["prefix"]) == STEP
    visitor.page.click("#new")
    visitor.page.wait_for_selector('#view [data-run=""]')
    replay(visitor, text)
    assert visitor.text(visitor.wait(made)) == trace.text
    assert visitor.page.evaluate("window.pwned") is None


def test_a_reply_of_another_pack_can_be_read_but_not_gone_on_from(visitor: Visitor) -> None:
    from tests.browser.test_keep import a_trace

    replay(visitor, json.dumps(a_trace(9)))
    visitor.pin(visitor.wait(""), 2)
    visitor.page.wait_for_selector(".mpd-candidates")
    assert visitor.page.locator(".mpd-branch, .mpd-go").count() == 0
