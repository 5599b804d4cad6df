"""What can be taken home and brought back: JSON, CSV, replay, and links."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import numpy as np
import pytest
from playwright.sync_api import Browser

from mpd_core.analysis import trace_from_dict
from tests.browser.conftest import MARKS, Visitor, processor_seconds, slowness
from tests.browser.scripted import HOSTILE, SPEECH, ScriptedEngine

pytestmark = MARKS
Visit = Callable[..., Visitor]


def download(visitor: Visitor, kind: str) -> bytes:
    """Save the newest visible reply as a kind of file; its content."""
    keep = visitor.page.locator(".mpd-version:visible .mpd-keep").last
    if not keep.evaluate("node => node.open"):
        keep.locator("summary").click()
    with visitor.page.expect_download() as kept:
        keep.get_by_role("button", name=kind, exact=True).click()
    return Path(kept.value.path()).read_bytes()


def text_of(visitor: Visitor, kind: str) -> str:
    return download(visitor, kind).decode("utf-8")


def replay(visitor: Visitor, text: str | bytes, name: str = "trace.json") -> None:
    content = text.encode("utf-8") if isinstance(text, str) else text
    file = {"name": name, "mimeType": "application/json", "buffer": content}
    visitor.page.set_input_files("#more input[type=file]", file)  # type: ignore[arg-type]


def notice(visitor: Visitor) -> str:
    box = visitor.page.locator(".mpd-notice:not(:empty)")
    box.wait_for()
    return box.inner_text()


def a_trace(steps: int = 3, **changes: Any) -> dict[str, Any]:
    """A trace as the command line writes it."""
    texts = [f" {i}" for i in range(steps)]
    logprobs = {"elementary": -1.0, "concise": -2.0, "friendly": None}
    weights = {"elementary": 0.5, "concise": 0.25, "friendly": 0.25}
    one = {"probability": 0.1, "logprobs": logprobs}
    step = {
        "token_id": 7, "weights": weights, "probability": 0.2, "logprobs": logprobs, "entropy": 1.0,
        "disagreement": 0.1, "divergence": 0.2, "missing": {},
        "top_k": [one | {"token_id": k, "text": f"w{k}"} for k in range(9)],
    }  # fmt: skip
    trace = {
        "schema_version": 2, "pack": "scripted", "hashes": {}, "trained": True, "prompt": "Count.",
        "messages": [{"role": "user", "content": "Count."}], "preference": "AAA",
        "poles": list(weights), "method": "mpd", "space": "probability", "settings": {}, "seed": 5,
        "device": "cpu", "precision": "fp16", "text": "".join(texts), "finish_reason": "stop",
        "prompt_tokens": 9, "timing": {"first_token_s": 0.1, "total_s": 1.0, "tokens_per_s": 30.0},
        "steps": [{**step, "index": i, "text": text} for i, text in enumerate(texts)],
    }  # fmt: skip
    return {**trace, **changes}


def test_json_is_a_whole_trace_that_the_program_reads(
    visitor: Visitor, engine: ScriptedEngine
) -> None:
    visitor.run("Explain photosynthesis.")
    trace = trace_from_dict(json.loads(text_of(visitor, "JSON")))
    made = engine.streams[-1].trace()
    assert (trace.text, trace.method, trace.preference) == (SPEECH, made.method, made.preference)
    assert trace.settings == made.settings
    assert trace.finish_reason == "stop"
    assert len(trace.steps) == len(made.steps)
    for mine, theirs in zip(trace.steps, made.steps, strict=True):
        assert mine.token_id == theirs.token_id
        assert mine.weights == pytest.approx(dict(theirs.weights), rel=1e-6)
        assert mine.logprobs == pytest.approx(dict(theirs.logprobs), rel=1e-6)
        assert [c.token_id for c in mine.top_k] == [c.token_id for c in theirs.top_k]
        assert mine.top_k[1].logprobs == pytest.approx(dict(theirs.top_k[1].logprobs), rel=1e-6)


def test_csv_has_one_row_a_step_and_no_formulas(visitor: Visitor, engine: ScriptedEngine) -> None:
    visitor.run('echo =1+1 "quoted", @x')
    rows = list(csv.DictReader(io.StringIO(text_of(visitor, "CSV"))))
    steps = engine.streams[-1].steps
    assert len(rows) == len(steps)
    assert [json.loads(row["text_json"]) for row in rows] == [step.text for step in steps]
    assert all(row["text_json"].startswith('"') for row in rows)
    assert float(rows[2]["weight:concise"]) == pytest.approx(steps[2].weights["concise"], rel=1e-6)
    brought = {e: w * math.exp(steps[2].logprobs[e]) for e, w in steps[2].weights.items()}
    assert float(rows[2]["responsibility:friendly"]) == pytest.approx(
        brought["friendly"] / sum(brought.values()), rel=1e-5
    )


@pytest.mark.parametrize("anchors", [["plain"], ["plain", "anchor"]])
def test_what_shifts_start_from_is_kept_and_shown(visitor: Visitor, anchors: list[str]) -> None:
    """One row, where the pack starts from what shifts are measured from, or two."""
    trace = a_trace(2, space="strength", settings={"strength": 7.0, "plausibility": 0.2})
    chances = dict(zip(anchors, (0.5, 0.25), strict=False))
    for step in trace["steps"]:
        for one in (step, *step["top_k"]):
            one["logprobs"] = one["logprobs"] | {a: math.log(p) for a, p in chances.items()}
    replay(visitor, json.dumps(trace))
    visitor.pin(visitor.wait(""), 1)
    names = ["start", "anchor"][: len(anchors)]
    shown = visitor.page.locator(".mpd-anchors > span").all_inner_texts()
    assert shown == [f"{n} finds it {p:.0%}" for n, p in zip(names, (0.5, 0.25), strict=False)]
    again = json.loads(text_of(visitor, "JSON"))
    assert again["steps"][1]["logprobs"] == pytest.approx(trace["steps"][1]["logprobs"])
    assert list(again["steps"][1]["top_k"][0]["logprobs"])[3:] == anchors
    row = next(csv.DictReader(io.StringIO(text_of(visitor, "CSV"))))
    assert {k for k in row if k.startswith("logprob:")} == {
        f"logprob:{voice}" for voice in ("elementary", "concise", "friendly", *anchors)
    }
    assert float(row["logprob:plain"]) == pytest.approx(math.log(0.5))
    arrays = np.load(io.BytesIO(download(visitor, "NPZ")))
    assert arrays["voice"].tolist() == ["elementary", "concise", "friendly", *anchors]
    assert arrays["logprob"].shape == (2, 3 + len(anchors))


def test_an_exported_reply_comes_back_the_same_without_the_engine(
    visitor: Visitor, engine: ScriptedEngine
) -> None:
    first = visitor.run("hostile reply")
    exported = text_of(visitor, "JSON")
    visitor.page.click("#new")
    visitor.page.wait_for_selector('#view [data-run=""]')
    asked = len(engine.streams)
    replay(visitor, exported)
    again = visitor.wait(first)
    assert len(engine.streams) == asked
    assert "from a file" in visitor.page.locator(".mpd-made").inner_text()
    assert HOSTILE in visitor.text(again)
    visitor.pin(again, 3)
    assert json.loads(text_of(visitor, "JSON")) == json.loads(exported)
    assert visitor.page.evaluate("window.pwned") is None
    assert visitor.page.locator("#view img, #view script, #view a").count() == 0


def test_a_file_of_this_pack_shows_as_many_candidates_as_the_reply_did(
    visitor: Visitor, engine: ScriptedEngine
) -> None:
    rows = visitor.page.locator(".mpd-candidates tbody tr")
    run = visitor.run("echo one two three")
    visitor.pin(run, 2)
    count = rows.count()
    trace = json.loads(text_of(visitor, "JSON"))
    for hashes in ({"pack.toml": engine.pack.toml_sha256}, {"pack.toml": "another"}):
        replay(visitor, json.dumps(trace | {"hashes": hashes}))
        run = visitor.wait(run)
        visitor.pin(run, 2)
        same = hashes["pack.toml"] != "another"
        assert (rows.count() == count) is same


def test_hostile_words_anywhere_in_a_file_stay_words(visitor: Visitor) -> None:
    weights = {HOSTILE: 0.5, "__proto__": 0.5}
    trace = a_trace(2, prompt=HOSTILE, method=HOSTILE, space="constructor", device=HOSTILE)
    trace |= {
        "preference": "../../" + HOSTILE,
        "settings": {"temperature": HOSTILE, "__proto__": 1},
    }
    trace |= {"messages": [{"role": HOSTILE, "content": HOSTILE}], "finish_reason": HOSTILE}
    for step in trace["steps"]:
        step["weights"], step["logprobs"] = weights, dict.fromkeys(weights, -1.0)
        step["missing"] = {HOSTILE: 0.1}
        for one in step["top_k"]:
            one |= {"text": HOSTILE, "logprobs": dict.fromkeys(weights, -2.0)}
    replay(visitor, json.dumps(trace))
    run = visitor.wait("")
    visitor.pin(run, 0)
    visitor.page.get_by_role("button", name="Read").click()
    visitor.page.get_by_role("button", name="Tokens").click()
    assert HOSTILE[:20] in visitor.page.locator(".mpd-detail-rows").inner_text()
    assert visitor.page.evaluate("[window.pwned, ({}).polluted]") == [None, None]
    assert visitor.page.locator("#view img, #view script, #view a").count() == 0


TIMES = ("first_token_s", "total_s", "tokens_per_s")


def broken(trace: dict[str, Any], **changes: Any) -> str:
    """A trace whose second step is wrong."""
    trace["steps"][1] |= changes
    return json.dumps(trace)


def no_traces() -> list[tuple[str, str]]:
    """Files, and what is said of them."""
    return [
        ("", "no JSON"),
        (json.dumps(a_trace())[:-40], "cut short"),
        ("[1, 2]", "no schema_version"),
        ("null", "no schema_version"),
        (json.dumps(a_trace(schema_version=0)), "has schema 0; this page reads 2"),
        (json.dumps(a_trace() | {"steps": 7}), "it has no steps"),
        (json.dumps(a_trace(text="other")), "do not join to its text"),
        (json.dumps(a_trace(prompt=7)), "“prompt” is missing or no text"),
        (json.dumps(a_trace(messages="x")), "“messages”"),
        (json.dumps(a_trace(timing={})), "its timing has no proper “first_token_s”"),
        (json.dumps(a_trace(timing=dict.fromkeys(TIMES, "x"))), "“first_token_s”"),
        (json.dumps(a_trace(5000)), "at most 4096 are read"),
        (broken(a_trace(), weights={"elementary": 1}), "step 2 has other experts"),
        (broken(a_trace(), weights={"elementary": 9, "concise": 0, "friendly": 0}), "step 2"),
        (
            broken(a_trace(), weights={"elementary": 1, "concise": 1, "friendly": 1}),
            "no shares of 1",
        ),
        (broken(a_trace(), text="x" * 5000), "step 2 has a token of more than 4000 characters"),
        (json.dumps(a_trace(prompt="x" * 200_001)), "a text of 200001 characters"),
        (json.dumps(a_trace(seed={"a": 1})), "“seed” is missing or no whole number"),
        ("[" * 200_000, "no JSON"),
        (broken(a_trace(), text=None), "step 2 has no text"),
        (broken(a_trace(), top_k=None), "step 2"),
        (broken(a_trace(), top_k=[{}]), "step 2"),
        (broken(a_trace(), entropy="x"), "step 2 has no proper entropy"),
        (json.dumps(a_trace()).replace('"entropy": 1.0', '"entropy": NaN'), "no JSON"),
    ]


def test_files_that_are_no_traces_are_explained(visitor: Visitor) -> None:
    for text, message in no_traces():
        replay(visitor, text)
        assert message in notice(visitor), message
        assert visitor.page.locator(".mpd-turn").count() == 0
        visitor.page.evaluate("document.querySelector('.mpd-notice').replaceChildren()")


def test_a_file_that_is_too_large_is_not_even_read(visitor: Visitor, tmp_path: Path) -> None:
    file = tmp_path / "huge.json"
    with file.open("wb") as empty:
        empty.truncate(129 * 2**20)
    visitor.page.set_input_files("#more input[type=file]", file)
    assert notice(visitor) == "This file has 129 MB; at most 128 are read."
    visitor.page.evaluate("document.querySelector('.mpd-notice').replaceChildren()")


def test_two_thousand_steps_open_within_two_seconds(visitor: Visitor, browser: Browser) -> None:
    text = json.dumps(a_trace(2000))
    before = processor_seconds(browser)
    replay(visitor, text)
    run = visitor.wait("")
    visitor.page.evaluate(
        "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
    )
    seconds = processor_seconds(browser) - before
    print(f"{len(text) / 1e6:.1f} MB in {seconds:.2f} s of processor")
    assert seconds < 2 * slowness(browser)
    assert visitor.strip(run).locator(".tok").count() == 2000


def test_a_link_restores_prompt_toggles_method_seed_and_settings(
    visit: Visit, studio: str, engine: ScriptedEngine
) -> None:
    query = "prompt=echo+%3Cb%3Ehi&preference=B-A&method=uniform&seed=3&temperature=0.5"
    visitor = visit(f"{studio}/?{query}", permissions=["clipboard-read", "clipboard-write"])
    visitor.wait_for_draft("echo <b>hi")
    visitor.wait_for_toggles(["knowledgeable", "", "friendly"])
    run = visitor.run("echo <b>hi")
    asked = engine.streams[-1].request
    assert (asked.preference, asked.method) == ("B-A", "uniform")
    assert (asked.sampling.seed, asked.sampling.temperature) == (3, 0.5)
    assert visitor.text(run) == "echo <b>hi"
    visitor.page.get_by_role("button", name="Link").click()
    assert "copied" in notice(visitor)
    copied = visitor.page.evaluate("navigator.clipboard.readText()")
    assert copied.split("?")[0] == f"{studio}/"
    assert parse_qs(copied.split("?")[1]) == parse_qs(query)


def test_a_link_runs_only_on_request_and_once(
    visit: Visit, studio: str, engine: ScriptedEngine
) -> None:
    before = len(engine.streams)
    visitor = visit(f"{studio}/?prompt=echo+hi")
    visitor.wait_for_draft("echo hi")
    assert len(engine.streams) == before
    visitor = visit(f"{studio}/?prompt=echo+hi&run=1")
    run = visitor.wait("")
    assert visitor.text(run) == "echo hi"
    visitor.page.reload()
    visitor.page.wait_for_selector(f'.strip[data-run="{run}"] .tok')
    visitor.view.wait_for()  # now it would have been asked
    visitor.run("echo next")
    assert len(engine.streams) == before + 2


def test_what_a_link_gets_wrong_is_said_and_left_out(
    visit: Visit, studio: str, engine: ScriptedEngine
) -> None:
    before = len(engine.streams)
    visitor = visit(
        f"{studio}/?prompt=echo+hi&run=1&preference=ZZ&method=%3Cimg%20src=x%3E&seed=-1&top_p=x&max_new_tokens=7.5"
    )
    said = notice(visitor)
    for wrong in (
        "preference “ZZ”",
        "method “<img src=x>”",
        "seed “-1”",
        "top_p “x”",
        "max_new_tokens “7.5”",
    ):
        assert wrong in said
    visitor.wait_for_draft("echo hi")
    visitor.wait_for_toggles(["elementary", "concise", "friendly"])
    assert visitor.page.locator("#view img").count() == 0
    assert len(engine.streams) == before
