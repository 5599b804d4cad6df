"""Several replies to one instruction: all preferences at once, chosen columns, and versions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import MARKS, Visitor
from tests.browser.scripted import ScriptedEngine
from tests.patience import PATIENCE

pytestmark = MARKS
DONE = "count => document.querySelectorAll('.mpd-version[data-status=done]').length === count"
Visit = Callable[..., Visitor]


def test_one_click_shows_all_eight_preferences(visitor: Visitor, engine: ScriptedEngine) -> None:
    page, before = visitor.page, len(engine.streams)
    page.fill("#prompt textarea", "held and steady")
    page.get_by_role("button", name="All eight").click()
    page.wait_for_function("document.querySelectorAll('.strip .tok:nth-of-type(2)').length === 8")
    assert page.locator('.mpd[data-busy="true"]').count() == 1  # they are written side by side
    asked = engine.streams[before:]
    for stream in asked:
        stream.unstuck.set()
    page.wait_for_selector('#view [data-done="true"]')
    assert sorted(s.request.preference for s in asked) == sorted(
        a + b + c for a in "AB" for b in "AB" for c in "AB"
    )
    cards = page.locator(".mpd-version:visible")
    assert cards.count() == 8
    assert page.locator(".mpd-turn").count() == 1
    shown = page.locator(".mpd-mix").first.get_attribute("aria-label") or ""
    first = next(s for s in asked if s.request.preference == "AAA")
    means = [100 * sum(x.weights[e] for x in first.steps) / len(first.steps) for e in first.experts]
    assert [float(part.split()[-1].rstrip("%")) for part in shown.split(", ")] == pytest.approx(
        means, abs=0.6
    )


def test_all_eight_without_an_instruction_are_of_the_reply_that_is_shown(
    visitor: Visitor, engine: ScriptedEngine
) -> None:
    visitor.run("echo one two three")
    visitor.wait_for_draft("")
    before = len(engine.streams)
    visitor.page.get_by_role("button", name="All eight").click()
    visitor.page.wait_for_function(DONE, arg=9)
    asked = [stream.request.messages for stream in engine.streams[before:]]
    assert len(asked) == 8
    assert {(len(m), m[0].content) for m in asked} == {(1, "echo one two three")}
    cards = visitor.page.locator(".mpd-version:visible")
    expect(cards).to_have_count(8)  # and the reply before them only where it is wished
    assert "first reply" not in cards.first.inner_text()
    visitor.page.get_by_role("button", name="All versions").click()
    expect(cards).to_have_count(9)
    visitor.page.get_by_role("button", name="Only these").click()
    expect(cards).to_have_count(8)
    assert visitor.page.locator(".mpd-turn").count() == 1


def test_a_token_of_any_card_can_be_inspected_and_a_card_fills_the_screen(
    visitor: Visitor, engine: ScriptedEngine
) -> None:
    page = visitor.page
    page.fill("#prompt textarea", "echo one two three")
    page.get_by_role("button", name="All eight").click()
    page.wait_for_function(
        "document.querySelectorAll('.mpd-version[data-status=done]').length === 8"
    )
    card = page.locator(".mpd-version").nth(7)
    card.locator(".tok").nth(2).click()
    assert page.locator(".mpd-detail-rows .mpd-name").all_inner_texts()[0].endswith("knowledgeable")
    card.get_by_role("button", name="Open").click()
    assert page.locator(".mpd-version:visible").count() == 1
    assert "8 of 8" in page.locator(".mpd-pager").inner_text()
    visitor.run("echo next")
    assert engine.streams[-1].request.messages[1].content == "echo one two three"
    page.get_by_role("button", name="Side by side").click()
    assert page.locator(".mpd-turn").first.locator(".mpd-version:visible").count() == 8


def test_stop_ends_all_of_them(visitor: Visitor, engine: ScriptedEngine) -> None:
    page, before = visitor.page, len(engine.streams)
    page.fill("#prompt textarea", "slow tale")
    page.get_by_role("button", name="All eight").click()
    page.wait_for_function("document.querySelectorAll('.strip .tok:nth-of-type(2)').length === 8")
    page.click("#stop")
    page.wait_for_selector('#view [data-done="true"]')
    assert all(stream.ended.wait(PATIENCE) for stream in engine.streams[before:])
    assert all(len(stream.steps) < 400 for stream in engine.streams[before:])


def test_columns_of_methods_with_one_prompt_and_seed(visit: Visit, engine: ScriptedEngine) -> None:
    visitor = visit()
    page, before = visitor.page, len(engine.streams)
    page.fill("#prompt textarea", "echo compare me")
    page.get_by_role("button", name="Compare…").click()
    columns = page.locator(".mpd-column")
    assert columns.count() >= 2
    columns.nth(0).get_by_label("Method").select_option("uniform")
    columns.nth(1).get_by_label("Method").select_option("expert:concise")
    columns.nth(1).get_by_label("Preference").select_option("BBB")
    while columns.count() > 2:
        columns.last.get_by_label("Remove this column").click()
    page.get_by_role("button", name="Run these").click()
    page.wait_for_function(
        "document.querySelectorAll('.mpd-version[data-status=done]').length === 2"
    )
    asked = [(s.request.method, s.request.preference) for s in engine.streams[before:]]
    assert sorted(asked) == [("expert:concise", "BBB"), ("uniform", "AAA")]
    assert len({s.request.sampling.seed for s in engine.streams[before:]}) == 1
    assert "The same as the first reply" in page.locator(".mpd-version").nth(1).inner_text()


def test_a_comparison_has_two_to_four_columns(visit: Visit) -> None:
    page = visit().page
    page.get_by_role("button", name="Compare…").click()
    columns = page.locator(".mpd-column")
    add = page.get_by_role("button", name="Add a column")
    while columns.count() < 4:
        add.click()
    expect(add).to_be_disabled()
    methods = [choice.input_value() for choice in columns.get_by_label("Method").all()]
    assert len(set(methods)) == 4, methods  # what is added is no copy
    removes = page.get_by_label("Remove this column")
    while columns.count() > 2:
        removes.last.click()
    assert [remove.is_disabled() for remove in removes.all()] == [True, True]
    expect(columns.last.get_by_label("Method")).to_be_focused()
    expect(add).to_be_enabled()


def test_asking_again_and_editing_keep_versions_of_the_turn(
    visit: Visit, engine: ScriptedEngine
) -> None:
    visitor = visit()
    page = visitor.page
    visitor.run("echo zero")
    first = visitor.run("echo one")
    page.locator("#dimension-0").get_by_text("knowledgeable").click()
    page.locator(".last").get_by_role("button", name="Ask again").click()
    second = visitor.wait(first)
    asked = engine.streams[-1].request
    assert (asked.preference, len(asked.messages)) == ("BAA", 3)
    assert "2 of 2" in page.locator(".last .mpd-pager").inner_text()
    page.locator(".last").get_by_role("button", name="Edit").click()
    visitor.wait_for_draft("echo one")
    third = visitor.run("echo changed")
    assert len(engine.streams[-1].request.messages) == 3
    assert page.locator(".mpd-turn").count() == 2
    assert page.locator(".last .mpd-prompt").inner_text() == "echo changed"
    assert {visitor.text(run) for run in (first, second, third)} == {"echo one", "echo changed"}
    page.locator(".last").get_by_label("Version before").click()
    page.wait_for_selector(f'#view [data-run="{second}"]')
    assert page.locator(".last .mpd-prompt").inner_text() == "echo one"
    visitor.wait_for_saved(third)
    page.reload()
    page.wait_for_selector(f'.strip[data-run="{second}"] .tok')
    page.locator(".last").get_by_label("Version after").click()
    page.wait_for_selector(f'.strip[data-run="{third}"] .tok')
    assert visitor.text(third) == "echo changed"
    page.locator(".last").get_by_label("Version before").click()
    visitor.run("echo after")
    assert engine.streams[-1].request.messages[2].content == "echo one"


def test_side_by_side_each_version_says_which_instruction_it_answers(visit: Visit) -> None:
    visitor = visit()
    page = visitor.page
    first = visitor.run("echo the sea")
    page.get_by_role("button", name="Ask again").click()
    visitor.wait(first)
    page.get_by_role("button", name="Side by side").click()
    expect(page.locator(".mpd-prompt")).to_have_text("echo the sea")
    assert page.locator(".mpd-own-prompt:visible").count() == 0  # said once, above them
    page.get_by_role("button", name="One at a time").click()
    page.get_by_role("button", name="Edit").click()
    visitor.wait_for_draft("echo the sea")
    visitor.run("echo <b>lakes</b>")
    page.get_by_role("button", name="Side by side").click()
    own = page.locator(".mpd-version:visible .mpd-own-prompt")
    assert own.all_inner_texts() == ["echo the sea", "echo the sea", "echo <b>lakes</b>"]
    assert "echo" not in page.locator(".mpd-prompt").inner_text()
    # Another one becomes the active one, and nothing moves.
    page.locator(".mpd-version:visible .tok").first.click()
    assert own.all_inner_texts() == ["echo the sea", "echo the sea", "echo <b>lakes</b>"]
    page.get_by_role("button", name="One at a time").click()
    expect(page.locator(".mpd-prompt")).to_have_text("echo the sea")
    assert page.locator(".mpd-own-prompt:visible").count() == 0


def test_another_seed_needs_a_temperature(
    visit: Visit, studio: str, engine: ScriptedEngine
) -> None:
    visitor = visit(f"{studio}/?temperature=0.7&seed=5")
    run = visitor.run("echo warm")
    visitor.page.get_by_role("button", name="Another seed").click()
    visitor.wait(run)
    assert engine.streams[-1].request.sampling.seed != 5
    assert engine.streams[-1].request.sampling.temperature == 0.7
    cold = visit()
    cold.run("echo cold")
    before = len(engine.streams)
    cold.page.get_by_role("button", name="Another seed").click()
    assert "every seed gives the same reply" in cold.page.locator(".mpd-notice").inner_text()
    assert len(engine.streams) == before
