"""Inspecting a token, and what if its weights were others: every number against the engine's."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from tests.browser.conftest import MARKS, Visitor
from tests.browser.scripted import TOP_K, ScriptedEngine, distribution, mixture
from tests.browser.test_keep import a_trace, replay

pytestmark = MARKS
STEP = 6


def table(visitor: Visitor) -> list[list[tuple[str, float]]]:
    """The columns of the table of likeliest tokens."""
    rows = visitor.page.locator(".mpd-candidates tbody tr").evaluate_all(
        "rows => rows.map(r => [...r.cells].map(c => [...c.children].map(s => s.textContent)))"
    )
    return [[(c[0], number(c[1])) for c in column if c] for column in zip(*rows, strict=True)]


def number(text: str) -> float:
    return 0.0 if text.startswith("<") else float(text.rstrip("%")) / 100


def word(said: ScriptedEngine, token: int) -> str:
    step = said.streams[-1].steps[STEP]
    return step.text.strip() if token == step.token_id else f"word{token}"


def test_every_experts_top_stands_beside_the_merged_one_with_a_rest(
    visitor: Visitor, engine: ScriptedEngine
) -> None:
    visitor.pin(visitor.run("Explain photosynthesis."), STEP)
    step = engine.streams[-1].steps[STEP]
    said = {e: distribution(STEP, k) for k, e in enumerate(step.weights)}
    expected = [mixture(said, dict(step.weights)), *said.values()]
    columns = table(visitor)
    assert len(columns) == 4
    for column, p in zip(columns, expected, strict=True):
        top = sorted(range(len(p)), key=lambda v, p=p: -p[v])[:TOP_K]
        assert [text for text, _ in column[:-1]] == [word(engine, v) for v in top]
        assert [share for _, share in column[:-1]] == pytest.approx([p[v] for v in top], abs=6e-3)
        assert column[-1][0] == "others"
        assert column[-1][1] == pytest.approx(1 - sum(p[v] for v in top), abs=6e-3)


def facts(visitor: Visitor) -> dict[str, str]:
    pairs = visitor.page.locator(".mpd-side .mpd-summary > div").evaluate_all(
        "all => all.map(one => [...one.children].map(part => part.textContent))"
    )
    return dict(pairs)


def test_facts_of_a_token(visitor: Visitor, engine: ScriptedEngine) -> None:
    visitor.pin(visitor.run("Explain photosynthesis."), STEP)
    step = engine.streams[-1].steps[STEP]
    shown = facts(visitor)
    said = {e: distribution(STEP, k) for k, e in enumerate(step.weights)}
    p = mixture(said, dict(step.weights))
    rank = 1 + sum(q > p[step.token_id] for q in p)
    assert shown["Token id"] == str(step.token_id)
    assert shown["Bytes"] == step.text.encode().hex(" ")
    assert shown["Rank"] == (str(rank) if rank <= TOP_K else f"below {TOP_K}")
    assert number(shown["Probability"]) == pytest.approx(step.probability, abs=6e-3)
    mean = [sum(column) / len(said) for column in zip(*said.values(), strict=True)]
    apart = entropy(mean) - sum(map(entropy, said.values())) / len(said)
    assert float(shown["Divergence"].split()[0]) == pytest.approx(apart, abs=6e-3)


def entropy(p: list[float]) -> float:
    return -sum(q * math.log(q) for q in p if q > 0)


def force(visitor: Visitor, weights: list[float]) -> list[tuple[str, float]]:
    """Move the sliders; returns the answer's tokens and probabilities."""
    sliders = visitor.page.locator(".mpd-force input")
    for k, weight in enumerate(weights):
        sliders.nth(k).evaluate(
            "(s, v) => { s.value = v; s.dispatchEvent(new Event('input')); }", str(100 * weight)
        )
    rows = visitor.page.locator(".mpd-ranked li").evaluate_all(
        "all => all.map(li => [...li.children].map(part => part.textContent))"
    )
    return [(row[0], number(row[2])) for row in rows]


@pytest.mark.parametrize("weights", [[0.2, 0.5, 0.3], [1.0, 0.0, 0.0], [0.1, 0.1, 0.8]])
def test_forced_weights_give_the_mixture_that_the_engine_would_have(
    visitor: Visitor, engine: ScriptedEngine, weights: list[float]
) -> None:
    visitor.pin(visitor.run("Explain photosynthesis."), STEP)
    if not visitor.page.locator(".mpd-whatif").evaluate("node => node.open"):
        visitor.page.locator(".mpd-whatif summary").click()
    step = engine.streams[-1].steps[STEP]
    answer = force(visitor, weights)
    said = {e: distribution(STEP, k) for k, e in enumerate(step.weights)}
    p = mixture(said, dict(zip(step.weights, weights, strict=True)))
    exact = visitor.page.locator(".mpd-answer").get_attribute("data-exact") == "true"
    known = {word(engine, v): p[v] for v in range(len(p))}
    assert [share for _, share in answer] == pytest.approx([known[t] for t, _ in answer], abs=6e-3)
    top = sorted(range(len(p)), key=lambda v: -p[v])[:TOP_K]
    if exact or 1.0 in weights:
        assert [text for text, _ in answer] == [word(engine, v) for v in top]
    assert exact or 1.0 not in weights
    rest = visitor.page.locator(".mpd-answer > .mpd-hint").inner_text()
    assert number(rest.split()[1]) == pytest.approx(1 - sum(v for _, v in answer), abs=0.02)


def test_presets_and_what_was(visitor: Visitor, engine: ScriptedEngine) -> None:
    visitor.pin(visitor.run("Explain photosynthesis."), STEP)
    if not visitor.page.locator(".mpd-whatif").evaluate("node => node.open"):
        visitor.page.locator(".mpd-whatif summary").click()
    shown = visitor.page.locator(".mpd-force .mpd-value")
    visitor.page.get_by_role("button", name="uniform").click()
    assert shown.all_inner_texts() == ["33%"] * 3
    visitor.page.get_by_role("button", name="only concise").click()
    assert shown.all_inner_texts() == ["0.0%", "100%", "0.0%"]
    visitor.page.get_by_role("button", name="as it was").click()
    weights = engine.streams[-1].steps[STEP].weights.values()
    assert [number(text) for text in shown.all_inner_texts()] == pytest.approx(
        list(weights), abs=0.02
    )


MATHS = """([file, top, weights, was, space, numbers, k]) => {
  const {whatIf} = new Function(file + '; return {whatIf};')();
  const E = weights.length;
  const data = {experts: weights.map(() => ({})), anchors: top[0].lp.length - E, id: [top[0].id],
    weight: [was], top: [top.map(c => ({...c, chance: c.lp.slice(0, E).map(Math.exp)}))]};
  return whatIf(data, 0, weights, {space, ...numbers}, k);
}"""
WAS, FORCED = [0.3, 0.3, 0.4], [0.6, 0.1, 0.3]


def what_if(
    visitor: Visitor,
    voices: list[list[float]],
    merged: dict[int, float],
    weights: list[float],
    space: str,
    share: float = 0.0,
) -> tuple[dict[str, Any], set[int]]:
    """The page's answer, from the k likeliest tokens of each expert; and which ones these are.

    Args:
        voices: whole distributions of three experts, then of anchors.
        merged: as it was, unnormalised, by token.
    """
    from mpd_core.ui import assets

    names = ("text.js", "colouring.js", "trace.js", "whatif.js")
    file = "\n".join(assets.text(name) for name in names)
    total = sum(merged.values())
    recorded = {v for p in voices[:3] for v in sorted(range(len(p)), key=lambda v: -p[v])[:TOP_K]}
    top = [
        {"id": v, "text": str(v), "p": merged[v] / total, "lp": [math.log(p[v]) for p in voices]}
        for v in recorded
    ]
    numbers = {"strength": 2.0, "plausibility": share}
    found = visitor.page.evaluate(MATHS, [file, top, weights, WAS, space, numbers, TOP_K])
    return found, recorded


def test_what_if_knows_how_strength_fades(visitor: Visitor) -> None:
    """7 (0.4 + 0.6 e^(-i/25)), as the engine has it; files from before it faded keep all of it."""
    from mpd_core.ui import assets

    code = """([file, settings, at]) => {
      const Version = new Function(file + '; return Version;')();
      return at.map(i => Version.prototype.strengthAt.call({head: {settings}}, i));
    }"""
    settings = {"strength": 7.0, "settled": 0.4, "fade": 25.0}
    found = visitor.page.evaluate(code, [assets.text("version.js"), settings, [0, 25, 10_000]])
    assert found == pytest.approx([7.0, 7 * (0.4 + 0.6 / math.e), 2.8])
    old = visitor.page.evaluate(code, [assets.text("version.js"), {"strength": 5.0}, [0, 80]])
    assert old == [5.0, 5.0]


@pytest.mark.parametrize("space", ["probability", "logit", "strength"])
@pytest.mark.parametrize("anchors", [1, 2])
def test_bounds_hold_whatever_lies_outside_the_record(
    visitor: Visitor, space: str, anchors: int
) -> None:
    """Against whole distributions, of which the page sees the recorded part."""
    for seed in range(4):
        voices = [distribution(seed, k) for k in range(3)]
        if space == "strength":
            voices += [distribution(seed + 3, 4), distribution(seed + 5, 5)][:anchors]
        before, merged = (whole(space, voices, weights) for weights in (WAS, FORCED))
        answer, recorded = what_if(visitor, voices, before, FORCED, space)
        seen = sum(merged[v] for v in (recorded if space == "strength" else merged))
        for row in answer["rows"]:
            true = merged[row["token"]["id"]] / seen
            assert row["low"] - 1e-9 <= true <= row["high"] + 1e-9
            better = sum(m > merged[row["token"]["id"]] + 1e-12 for m in merged.values())
            assert not row["sure"] or better <= answer["rows"].index(row)
        assert answer["exact"] is False or space != "strength"


@pytest.mark.parametrize("anchors", [1, 2])
def test_strength_is_exact_where_the_floor_leaves_nothing_outside_the_record(
    visitor: Visitor, anchors: int
) -> None:
    """With one row that shifts start from and are measured from, and with two."""
    exact = 0
    for seed in range(8):
        voices = [sharp(distribution(seed, k), 4 + 3 * seed) for k in range(3)]
        start = sharp([math.prod(p) for p in zip(*voices, strict=True)], 0.6)
        voices += [start, distribution(seed + 5, 5)][:anchors]
        plausible = [v for v in range(len(start)) if any(p[v] >= 0.2 * max(p) for p in voices[:4])]
        before, merged = (
            {v: m if v in plausible else 0.0 for v, m in whole("strength", voices, w).items()}
            for w in (WAS, FORCED)
        )
        answer, recorded = what_if(visitor, voices, before, FORCED, "strength", 0.2)
        if not answer["exact"]:
            continue
        exact += 1
        assert set(plausible) <= recorded
        shown = {row["token"]["id"]: row["low"] for row in answer["rows"]}
        total = sum(merged.values())
        assert shown == pytest.approx({v: merged[v] / total for v in shown}, abs=1e-9)
        assert answer["others"]["high"] == pytest.approx(1 - sum(shown.values()), abs=1e-9)
    assert 0 < exact < 8


@pytest.mark.parametrize("space", ["probability", "logit", "strength"])
def test_weights_as_they_were_give_what_was_recorded(visitor: Visitor, space: str) -> None:
    voices = [distribution(2, k) for k in range(5 if space == "strength" else 3)]
    before = whole(space, voices, WAS)
    answer, recorded = what_if(visitor, voices, before, WAS, space)
    assert answer["exact"]
    shown = {row["token"]["id"]: row["high"] for row in answer["rows"]}
    best = sorted(recorded, key=lambda v: -before[v])[:TOP_K]
    total = sum(before.values())
    assert shown == pytest.approx({v: before[v] / total for v in best})


def sharp(p: list[float], power: float) -> list[float]:
    raised = [q**power for q in p]
    return [q / sum(raised) for q in raised]


def whole(space: str, voices: list[list[float]], weights: list[float]) -> dict[int, float]:
    """Every token's unnormalised merged probability; one anchor is start and measure in one."""
    anchors = [voices[3], voices[-1]] if len(voices) > 3 else []
    return {
        v: raw(space, [p[v] for p in voices[:3]], weights, [a[v] for a in anchors])
        for v in range(len(voices[0]))
    }


def raw(space: str, p: list[float], weights: list[float], anchors: list[float]) -> float:
    """One token's unnormalised merged probability."""
    if space == "probability":
        return sum(w * q for w, q in zip(weights, p, strict=True))
    product = math.prod(q**w for w, q in zip(weights, p, strict=True))
    return product if space == "logit" else anchors[0] * (product / anchors[1]) ** 2.0


def test_one_expert_alone_has_the_merged_tokens_beside_its_own_where_a_start_is_moved(
    visitor: Visitor,
) -> None:
    trace = a_trace(2, space="strength", settings={"strength": 2.0}, preference="A--")
    chances = {"elementary": math.log(0.3), "plain": math.log(0.5)}
    for step in trace["steps"]:
        step |= {"weights": {"elementary": 1.0}, "logprobs": chances}
        for one in step["top_k"]:
            one |= {"probability": 0.1, "logprobs": chances}
    replay(visitor, json.dumps(trace))
    visitor.pin(visitor.wait(""), 1)
    heads = visitor.page.locator(".mpd-candidates th > :last-child").all_inner_texts()
    assert heads == ["merged", "elementary"]


def test_a_term_explains_itself(visitor: Visitor) -> None:
    visitor.pin(visitor.run("Explain photosynthesis."), STEP)
    visitor.page.locator(".mpd-side").get_by_role("button", name="Entropy").click()
    tip = visitor.page.locator(".mpd-tip")
    assert tip.is_visible()
    assert "nats" in tip.inner_text()
    visitor.page.keyboard.press("Escape")


def test_the_inspector_lives_while_a_reply_is_written(
    visitor: Visitor, engine: ScriptedEngine
) -> None:
    visitor.run("held and steady", wait=False)
    visitor.page.wait_for_selector(".mpd-side .mpd-hint:has-text('token 5 of 5')")
    assert visitor.view.get_attribute("data-done") == "false"
    engine.streams[-1].unstuck.set()
    visitor.page.wait_for_selector(".mpd-side h2:has-text('This reply')")
