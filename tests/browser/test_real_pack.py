"""What a visitor does, once, with the real pack: every number against the engine and its trace."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from mpd_core.analysis import trace_from_dict
from mpd_core.engine import Engine
from mpd_core.evaluation.votes import FILE, Votes
from mpd_core.packs import load_pack
from mpd_core.trace import StepRecord, Trace
from tests.browser.conftest import MARKS, VIEW, Profiles, Visitor
from tests.browser.test_branch import press
from tests.browser.test_compare import DONE
from tests.browser.test_inspect import facts, force, number, table
from tests.browser.test_keep import replay, text_of
from tests.browser.test_people import opened, outputs

pytestmark = [*MARKS, pytest.mark.base]
PACK = "smollm2-135m"
PROMPT = "Explain photosynthesis."
FORCED = [0.1, 0.7, 0.2]
SHORT = 48
"""Tokens, where a whole reply is not needed."""
SHOWN = 6e-3
"""What a whole percent leaves open."""
COUNTS = """view => {
  const node = document.querySelector(view);
  window.counts = [];
  new MutationObserver(() => {
    if (node.dataset.done === 'false') window.counts.push(Number(node.dataset.count));
  }).observe(node, {attributes: true});
}"""


@pytest.fixture(scope="module")
def alone() -> Iterator[Engine]:
    """An engine of another process, which no page asks."""
    engine = Engine.open(load_pack(PACK))
    yield engine
    engine.close()


@dataclass
class Reply:
    """A finished reply on a page, and what was seen on the way."""

    visitor: Visitor
    run: str
    counts: list[int]
    """Of tokens, as they were on the page while it was written."""
    exported: str

    @property
    def trace(self) -> Trace:
        return trace_from_dict(json.loads(self.exported))

    @property
    def apart(self) -> StepRecord:
        """A step with a choice, where experts differ most."""
        open_ones = [s for s in self.trace.steps if sum(c.probability > 0.01 for c in s.top_k) > 2]
        return max(open_ones, key=lambda step: step.divergence)

    def pin(self) -> StepRecord:
        """Pin that step, unless it is: a second click would release it."""
        step = self.apart
        if self.visitor.page.locator(f'.mpd-side[data-pinned="{step.index}"]').count() == 0:
            self.visitor.pin(self.run, step.index)
        return step


@pytest.fixture(scope="module")
def reply(browser: Browser, real_app: str) -> Iterator[Reply]:
    """Two toggles turned, an instruction typed, Run pressed."""
    visitor = Profiles(browser).open(real_app)
    page = visitor.page
    page.wait_for_selector(".strip .tok")
    assert "stored example" in page.locator(".mpd-made").inner_text()
    page.locator("#dimension-0").get_by_text("knowledgeable").click()
    page.locator("#dimension-1").get_by_text("informative").click()
    visitor.wait_for_toggles(["knowledgeable", "informative", "friendly"])
    page.evaluate(COUNTS, VIEW)
    run = visitor.run(PROMPT)
    yield Reply(visitor, run, page.evaluate("window.counts"), text_of(visitor, "JSON"))
    assert visitor.strays == []


def test_a_reply_streams_ends_by_itself_and_is_the_engines_own(reply: Reply, alone: Engine) -> None:
    trace, own = reply.trace, alone.generate(alone.pack.request(PROMPT, "BBA", "mpd"))
    assert reply.visitor.text(reply.run) == trace.text == own.text
    assert [s.token_id for s in trace.steps] == [s.token_id for s in own.steps]
    assert trace.finish_reason == own.finish_reason == "stop"
    assert (trace.hashes, trace.preference) == (own.hashes, "BBA")
    assert any(0 < count < len(trace.steps) for count in reply.counts)
    for mine, theirs in zip(trace.steps, own.steps, strict=True):
        assert mine.weights == pytest.approx(dict(theirs.weights), abs=1e-4)
        assert mine.logprobs == pytest.approx(dict(theirs.logprobs), abs=1e-3)


def test_it_is_read_as_text_and_as_tokens(reply: Reply) -> None:
    page, strip = reply.visitor.page, reply.visitor.strip(reply.run)
    page.get_by_role("button", name="Read", exact=True).click()
    expect(strip).to_be_hidden()
    read = page.locator(f'.mpd-version:has([data-run="{reply.run}"]) .mpd-read').inner_text()
    page.get_by_role("button", name="Tokens", exact=True).click()
    expect(strip).to_be_visible()
    assert letters(read) == letters(reply.trace.text)
    assert strip.locator(".tok").count() == len(reply.trace.steps)


def letters(text: str) -> str:
    return "".join(filter(str.isalpha, text))


def test_a_tokens_numbers_are_the_traces(reply: Reply) -> None:
    visitor, step = reply.visitor, reply.pin()
    shown, rows = facts(visitor), visitor.page.locator(".mpd-detail-rows > .mpd-row")
    assert shown["Token id"] == str(step.token_id)
    assert number(shown["Probability"]) == pytest.approx(step.probability, abs=SHOWN)
    for name, value in (("Entropy", step.entropy), ("Divergence", step.divergence)):
        assert float(shown[name].split()[0]) == pytest.approx(value, abs=SHOWN)
    weights = [number(text) for text in rows.locator(".mpd-value").all_inner_texts()]
    assert weights == pytest.approx(list(step.weights.values()), abs=SHOWN)
    brought = {e: w * math.exp(step.logprobs[e]) for e, w in step.weights.items()}
    shares = [value / sum(brought.values()) for value in brought.values()]
    notes = rows.locator(".mpd-row-notes > span:first-child").all_inner_texts()
    assert [number(text.split()[-1]) for text in notes] == pytest.approx(shares, abs=SHOWN)
    said = [[c.probability for c in step.top_k]]
    said += [[math.exp(c.logprobs[expert]) for c in step.top_k] for expert in step.weights]
    for column, known in zip(table(visitor), said, strict=True):
        listed = [share for _, share in column[:-1] if share > 0]
        assert listed == pytest.approx(sorted(known)[::-1][: len(listed)], abs=SHOWN)
        assert column[-1][1] == pytest.approx(1 - sum(listed), abs=len(column) * SHOWN)


def other_weights(trace: Trace, step: StepRecord, weights: list[float]) -> dict[int, float]:
    """The merged distribution over what was recorded: a start that is moved by shifts."""
    numbers = {name: float(trace.settings[name]) for name in ("strength", "settled", "fade")}
    faded = math.exp(-step.index / numbers["fade"])
    strength = numbers["strength"] * (numbers["settled"] + (1 - numbers["settled"]) * faded)
    start, *others = [name for name in step.logprobs if name not in step.weights]
    anchor = others[0] if others else start
    voices = dict(zip(step.weights, weights, strict=True))
    most = {e: max(c.logprobs[e] for c in step.top_k) for e in voices}
    floor = math.log(float(trace.settings["plausibility"]))
    raw = {
        c.token_id: c.logprobs[start]
        + strength * (sum(w * c.logprobs[e] for e, w in voices.items()) - c.logprobs[anchor])
        for c in step.top_k
        if c.probability > 0 or any(c.logprobs[e] >= floor + most[e] for e in voices)
    }
    total = sum(math.exp(value) for value in raw.values())
    return {token: math.exp(value) / total for token, value in raw.items()}


def test_other_weights_give_what_the_trace_and_then_the_engine_give(reply: Reply) -> None:
    """The answer at once, from the record; and the branch that is written with these weights."""
    visitor, step, page = reply.visitor, reply.pin(), reply.visitor.page
    if not page.locator(".mpd-whatif").evaluate("node => node.open"):
        page.locator(".mpd-whatif summary").click()
    answer = force(visitor, FORCED)
    exact = page.locator(".mpd-answer").get_attribute("data-exact") == "true"
    expected = other_weights(reply.trace, step, FORCED)
    top = sorted(expected, key=lambda token: -expected[token])[: len(answer)]
    assert [p for _, p in answer] == pytest.approx([expected[t] for t in top], abs=SHOWN)

    branch = press(visitor, "Regenerate this token")
    made = trace_from_dict(json.loads(text_of(visitor, "JSON")))
    assert made.branch is not None
    assert made.branch["weights"] == pytest.approx(FORCED)
    assert made.branch["prefix"] == [s.token_id for s in reply.trace.steps[: step.index]]
    again = {c.token_id: c.probability for c in made.steps[step.index].top_k}
    known = sum(again.get(token, 0.0) for token in expected)
    assert exact is False or known == pytest.approx(1, abs=SHOWN)
    both = sum(expected[token] for token in expected if token in again)
    assert top[0] in again
    for token in expected.keys() & again.keys():
        assert again[token] / known == pytest.approx(expected[token] / both, abs=1e-3)

    pager = page.locator(".mpd-pager:visible")
    assert "2 of 2" in pager.inner_text()
    pager.get_by_role("button", name="Undo").click()
    page.wait_for_selector(f'#view [data-run="{reply.run}"]')
    pager.get_by_role("button", name="Redo").click()
    page.wait_for_selector(f'#view [data-run="{branch}"]')
    pager.get_by_role("button", name="Undo").click()
    page.wait_for_selector(f'#view [data-run="{reply.run}"]')
    assert visitor.text(reply.run) == reply.trace.text


def test_a_saved_reply_comes_back_and_is_a_table_of_its_steps(reply: Reply) -> None:
    visitor, trace = reply.visitor, reply.trace
    before = visitor.view.get_attribute("data-run")
    replay(visitor, reply.exported)
    run = visitor.wait(before)
    assert visitor.text(run) == trace.text
    assert "from a file" in visitor.page.locator(".mpd-made:visible").last.inner_text()
    assert json.loads(text_of(visitor, "JSON")) == json.loads(reply.exported)
    rows = list(csv.DictReader(io.StringIO(text_of(visitor, "CSV"))))
    assert [json.loads(row["text_json"]) for row in rows] == [step.text for step in trace.steps]
    for expert in trace.poles:
        means = [float(row[f"weight:{expert}"]) for row in rows]
        assert means == pytest.approx([step.weights[expert] for step in trace.steps], abs=1e-6)


def test_a_saved_file_is_analysed(reply: Reply) -> None:
    page, trace = reply.visitor.page, reply.trace
    page.get_by_role("tab", name="Analyse").click()
    file = {"name": "a.json", "mimeType": "application/json", "buffer": reply.exported.encode()}
    page.set_input_files("#analyse input[type=file]", file)  # type: ignore[arg-type]
    count = len(trace.steps)
    page.wait_for_selector(f".mpd-analysis-sum:has-text('1 reply, {count} tokens')")
    cells = page.locator('[aria-label="By preference"] tbody td').all_inner_texts()
    means = [sum(step.weights[e] for step in trace.steps) / count for e in trace.poles]
    assert cells[1] == str(count)
    assert sorted(map(float, cells[-3:])) == pytest.approx(sorted(means), abs=1e-3)
    page.wait_for_selector(".mpd-analysis[data-ready=true]")
    assert page.locator(".mpd-plot-one .main-svg").count() > 0
    page.get_by_role("tab", name="Chat").click()


def test_a_link_runs_and_methods_and_preferences_stand_side_by_side(
    visit: Callable[..., Visitor], real_app: str, alone: Engine
) -> None:
    prompt = "Why is the sky blue?"
    query = f"prompt={prompt}&preference=ABB&method=uniform&seed=3&max_new_tokens={SHORT}&run=1"
    visitor = visit(f"{real_app}/?{query.replace(' ', '+')}")
    page, run = visitor.page, visitor.wait("")
    assert visitor.text(run) == short(alone, prompt, "ABB", "uniform")
    made = page.locator(".mpd-made:visible").inner_text()
    assert "MPD uniform" in made
    assert "seed 3" in made
    asked = [("mpd", "BBB"), ("vanilla", "AAA")]
    assert compared(visitor, asked) == [short(alone, PROMPT, *reversed(one)) for one in asked]
    assert len(set(all_eight(visitor))) == 8


def short(engine: Engine, prompt: str, preference: str, method: str) -> str:
    asked = engine.pack.request(prompt, preference, method, max_new_tokens=SHORT)
    return engine.generate(asked).text


def anew(visitor: Visitor) -> None:
    """A new chat with an instruction typed."""
    visitor.page.click("#new")
    visitor.page.wait_for_selector(".mpd-turn", state="detached")
    visitor.page.fill("#prompt textarea", PROMPT)


def shown_texts(visitor: Visitor, count: int) -> list[str]:
    visitor.page.wait_for_function(DONE, arg=count)
    strips = visitor.page.locator(".strip:visible")
    return [str(text) for text in strips.evaluate_all("all => all.map(s => s.textContent)")]


def compared(visitor: Visitor, asked: list[tuple[str, str]]) -> list[str]:
    """Two columns of methods and preferences."""
    anew(visitor)
    visitor.page.get_by_role("button", name="Compare…").click()
    columns = visitor.page.locator(".mpd-column")
    while columns.count() > 2:
        columns.last.get_by_label("Remove this column").click()
    for k, (method, preference) in enumerate(asked):
        columns.nth(k).get_by_label("Method").select_option(method)
        columns.nth(k).get_by_label("Preference").select_option(preference)
    visitor.page.get_by_role("button", name="Run these").click()
    return shown_texts(visitor, 2)


def all_eight(visitor: Visitor) -> list[str]:
    """Every preference by one click, each with its mean weights."""
    anew(visitor)
    visitor.page.get_by_role("button", name="All eight").click()
    texts = shown_texts(visitor, 8)
    mixes = visitor.page.locator(".mpd-mix:visible")
    assert mixes.count() == 8
    for mix in mixes.all():
        shown = (mix.get_attribute("aria-label") or "").removeprefix("Mean weights: ").split(", ")
        assert sum(number(part.split()[-1]) for part in shown) == pytest.approx(1, abs=0.02)
    return texts


def test_a_rater_sees_two_stored_replies_and_votes(
    browser: Browser, real_app: str, votes: Path
) -> None:
    visitor = opened(browser, f"{real_app}/vote")
    page = visitor.page
    expect(page.locator("#vote-output-1 textarea")).not_to_have_value("")
    first, second = outputs(page)
    assert first != second != ""
    for count, key in enumerate("102", start=1):
        page.keyboard.press(key)
        expect(page.locator("#vote-rows input:checked")).to_have_count(count)
    page.keyboard.press("Enter")
    expect(page.locator("#vote-progress textarea, #vote-progress input")).to_have_value(
        "You have judged 1 pair."
    )
    (vote,) = Votes(votes / FILE).all()
    assert sorted(vote.verdicts.values()) == [-1, 0, 1]
    assert outputs(page) != (first, second)
    assert visitor.strays == []
    page.context.close()
