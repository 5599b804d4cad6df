"""The stored example: what a new visitor sees before anything has been asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mpd_core.analysis import read_trace
from mpd_core.packs import load_pack
from mpd_core.packs.pack import PACKS_DIR, pack_names
from mpd_core.ui.layout import EXAMPLE
from tests.browser.conftest import MARKS, Visitor
from tests.browser.scripted import SPEECH, ScriptedEngine

pytestmark = MARKS
Visit = Callable[..., Visitor]
FILE = PACKS_DIR / "smollm2-135m" / EXAMPLE


@pytest.mark.parametrize("name", [n for n in pack_names() if (PACKS_DIR / n / EXAMPLE).is_file()])
def test_a_packs_example_was_written_by_its_own_experts(name: str) -> None:
    pack, trace = load_pack(name), read_trace(PACKS_DIR / name / EXAMPLE)
    assert trace.pack == pack.spec.name
    assert set(trace.poles) <= {pole.name for pole in pack.space.poles}
    mine = {k: v for k, v in trace.hashes.items() if k != "pack.toml"}
    assert mine == {k: v for k, v in pack.hashes.items() if k != "pack.toml"}


def test_a_new_visitor_sees_an_example_that_asks_nothing(
    visit: Visit, engine: ScriptedEngine
) -> None:
    before = len(engine.streams)
    visitor = visit()
    trace = json.loads(FILE.read_text("utf-8"))
    visitor.page.wait_for_selector(".strip .tok")
    assert visitor.page.locator(".strip").evaluate("node => node.textContent") == trace["text"]
    assert "stored example" in visitor.page.locator(".mpd-made").inner_text()
    assert visitor.page.locator(".mpd-steps li").count() == 3
    visitor.page.wait_for_selector(".mpd-version[data-played]")
    visitor.page.locator(".tok").nth(1).click()
    visitor.page.wait_for_selector('.mpd-side[data-pinned="1"]')
    assert len(engine.streams) == before
    assert visitor.view.get_attribute("data-run") == ""


def test_the_example_gives_way_and_is_no_part_of_the_conversation(
    visit: Visit, engine: ScriptedEngine
) -> None:
    visitor = visit()
    visitor.page.wait_for_selector(".strip .tok")
    run = visitor.run("Explain photosynthesis.")
    assert visitor.text(run) == SPEECH
    assert visitor.page.locator(".mpd-turn").count() == 1
    assert len(engine.streams[-1].request.messages) == 1
    visitor.page.reload()
    visitor.page.wait_for_selector(f'.strip[data-run="{run}"] .tok')
    assert visitor.page.locator(".mpd-turn").count() == 1
    visitor.page.click("#new")
    visitor.page.wait_for_selector(".mpd-turn", state="detached")
    visitor.page.locator(".mpd-steps").wait_for()


def test_what_moves_is_still_for_who_asked_for_that(visit: Visit) -> None:
    visitor = visit(reduced_motion="reduce")
    visitor.page.wait_for_selector(".strip .tok")
    assert visitor.page.locator(".tok.unsaid").count() == 0


def test_a_broken_example_is_refused_at_the_start(tmp_path: Path) -> None:
    from mpd_core.analysis.files import TraceError
    from mpd_core.packs import Pack
    from mpd_core.ui.layout import _stored_example

    pack = load_pack("smollm2-135m")
    (tmp_path / EXAMPLE).write_text(FILE.read_text("utf-8")[:-50], encoding="utf-8")
    with pytest.raises(TraceError, match=r"example\.json: is no JSON"):
        _stored_example(Pack(pack.spec, tmp_path, ""))
    assert json.loads(_stored_example(pack))["experts"]
