"""Text in a reply, what is said about it, and the controls around it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import expect

from mpd_core.ui import assets
from tests.browser.conftest import MARKS, Visitor
from tests.browser.scripted import ARABIC, SPEECH, ScriptedEngine
from tests.browser.test_keep import a_trace, replay
from tests.patience import PATIENCE

pytestmark = MARKS
Visit = Callable[..., Visitor]


@pytest.mark.parametrize(("first", "last", "share"), [(0, 3, 0.5), (2, 6, 0.04), (6, 2, 0.04)])
def test_text_is_selected_from_anywhere_in_a_token_to_inside_another(
    visitor: Visitor, first: int, last: int, share: float
) -> None:
    """From before its first letter as well, where Chromium would rather give it the focus."""
    page = visitor.page
    run = visitor.run("echo one, two, three!")
    boxes = [visitor.strip(run).locator(".tok").nth(i).bounding_box() for i in (first, last)]
    assert boxes[0]
    assert boxes[1]
    page.mouse.move(boxes[0]["x"] + boxes[0]["width"] * share, boxes[0]["y"] + 12)
    page.mouse.down()
    page.mouse.move(boxes[1]["x"] + boxes[1]["width"] / 2, boxes[1]["y"] + 12, steps=5)
    page.mouse.up()
    chosen = page.evaluate("getSelection().toString()")
    assert len(chosen) > 4
    assert chosen in "echo one, two, three!"
    assert page.locator(".tok.pinned").count() == 0
    assert page.locator(".tok:not([tabindex])").count() == 0
    page.evaluate("getSelection().removeAllRanges()")


def test_a_token_that_is_clicked_has_the_keyboard(visitor: Visitor) -> None:
    run = visitor.run("echo one, two, three!")
    visitor.pin(run, 2)
    visitor.page.keyboard.press("ArrowRight")
    expect(visitor.strip(run).locator(".tok").nth(3)).to_be_focused()
    assert visitor.strip(run).locator('.tok[tabindex="0"]').count() == 1


def test_copy_and_read_give_the_reply(visit: Visit) -> None:
    visitor = visit(permissions=["clipboard-read", "clipboard-write"])
    page = visitor.page
    visitor.run("Explain photosynthesis.")
    page.get_by_role("button", name="Copy").click()
    page.wait_for_selector(".mpd-notice:not(:empty)")
    assert page.evaluate("navigator.clipboard.readText()") == SPEECH
    page.get_by_role("button", name="Read").click()
    read = page.locator(".mpd-read")
    for name in ("Colour by", "per", "Show spaces"):  # they would do nothing
        assert not page.get_by_label(name, exact=True).is_visible()
    assert "Point at the map" in page.locator(".mpd-side .mpd-hint:visible").inner_text()
    assert read.locator("strong").inner_text() == "sunlight"
    assert read.locator("p").count() == 2
    assert "[link](http://example.org/x.png)" in read.inner_text()
    assert read.locator("a, img, b").count() == 0
    expect(page.locator(".strip")).to_be_hidden()
    page.get_by_role("button", name="Tokens").click()
    expect(page.locator(".strip")).to_be_visible()


MARKDOWN = """# Head
1. one
2. two *soft* and `code`

- dash
  goes on
```
<b>x</b>
```
end __bold__ a_b_c 2 * 3 * 4"""


def test_markdown_becomes_elements_and_nothing_else(visitor: Visitor) -> None:
    visitor.run("echo " + MARKDOWN)
    page = visitor.page
    page.get_by_role("button", name="Read").click()
    read = page.locator(".mpd-read")
    expect(read).to_be_visible()
    html = read.evaluate("node => node.innerHTML.replace(/ dir=\"auto\"/g, '')")
    page.get_by_role("button", name="Tokens").click()
    expect(page.locator(".strip")).to_be_visible()
    assert "<li>two <em>soft</em> and <code>code</code></li></ol>" in html
    assert "<ul><li>dash\ngoes on</li></ul>" in html
    assert "<pre><code>&lt;b&gt;x&lt;/b&gt;</code></pre>" in html
    assert "end <strong>bold</strong> a_b_c 2 * 3 * 4" in html


def test_joined_and_right_to_left_scripts_read_as_plain_text_does(visit: Visit) -> None:
    """Letters of a word join across tokens, and its line runs the way it is read."""
    visitor = visit()
    plain = visitor.page.evaluate(
        """text => {
          const node = document.createElement('div'), plain = document.createElement('span');
          node.className = 'strip';
          node.dir = 'auto';
          plain.textContent = text;
          node.append(plain);
          document.querySelector('.mpd-log').append(node);
          const {width} = plain.getBoundingClientRect();
          node.remove();
          return width;
        }""",
        "".join(ARABIC),
    )
    run = visitor.run("speak arabic")
    strip = visitor.strip(run)
    lefts = strip.locator(".tok").evaluate_all(
        "all => all.map(t => t.getBoundingClientRect().left)"
    )
    assert lefts[: len(ARABIC)] == sorted(lefts[: len(ARABIC)], reverse=True)
    edges = strip.locator(".tok").evaluate_all(
        """all => { const b = all.filter(t => t.textContent).map(t => t.getBoundingClientRect());
          return Math.max(...b.map(x => x.right)) - Math.min(...b.map(x => x.left)); }"""
    )
    assert edges == pytest.approx(plain, abs=1)


def test_an_instruction_is_typed_the_way_its_script_runs(visitor: Visitor) -> None:
    box = visitor.page.locator("#prompt textarea")
    way = "node => getComputedStyle(node).direction"
    box.fill("".join(ARABIC))
    assert box.evaluate(way) == "rtl"
    box.fill("Explain photosynthesis.")
    assert box.evaluate(way) == "ltr"
    box.fill("")


def test_long_unbroken_text_wraps(visit: Visit) -> None:
    visitor = visit(width=390)
    run = visitor.run("echo " + "x" * 400)
    box = visitor.strip(run).evaluate("node => [node.scrollWidth, node.clientWidth]")
    assert box[0] <= box[1]


@pytest.mark.parametrize(("method", "tags"), [("uniform", 3), ("expert:concise", 0)])
def test_a_reply_says_its_method_and_seed_and_only_toggles_that_it_used(
    visit: Visit, studio: str, method: str, tags: int
) -> None:
    visitor = visit(f"{studio}/?method={method}&seed=7&prompt=echo+hi")
    visitor.wait_for_draft("echo hi")
    visitor.page.click("#run")
    visitor.wait("")
    made = visitor.page.locator(".mpd-made")
    assert made.locator("li").count() == tags
    assert "seed 7" in made.inner_text()
    assert ("Only concise" if tags == 0 else "MPD uniform") in made.inner_text()


def test_run_while_writing_keeps_what_is_there_and_begins_anew(
    visitor: Visitor, engine: ScriptedEngine
) -> None:
    first = visitor.run("slow tale", wait=False)
    stream = engine.streams[-1]
    second = visitor.run("echo next")
    assert visitor.text(second) == "echo next"
    assert stream.ended.wait(PATIENCE)
    kept = visitor.text(first)
    assert kept
    assert len(stream.steps) < 400
    sent = [(m.role, m.content) for m in engine.streams[-1].request.messages]
    assert sent == [("user", "slow tale"), ("assistant", kept), ("user", "echo next")]


def test_a_double_press_of_run_asks_once(visitor: Visitor, engine: ScriptedEngine) -> None:
    before = len(engine.streams)
    visitor.page.fill("#prompt textarea", "echo once")
    visitor.page.dblclick("#run")
    visitor.wait("")
    assert len(engine.streams) == before + 1
    assert visitor.page.locator(".mpd-notice:not(:empty)").count() == 0


def test_an_example_can_be_undone(visit: Visit) -> None:
    visitor = visit()
    visitor.page.fill("#prompt textarea", "my own long thought")
    visitor.page.locator("#dimension-0").get_by_text("off").click()
    visitor.page.locator("#examples button").last.click()
    visitor.wait_for_draft("How does the internet find a web page?")
    visitor.page.get_by_role("button", name="Undo").click()
    visitor.wait_for_draft("my own long thought")
    visitor.wait_for_toggles(["", "concise", "friendly"])


def test_all_toggles_off_is_explained_to_a_visitor(visit: Visit) -> None:
    visitor = visit()
    for d in range(3):
        visitor.page.locator(f"#dimension-{d}").get_by_text("off").click()
    visitor.page.fill("#prompt textarea", "echo hi")
    visitor.page.click("#run")
    said = visitor.page.locator(".mpd-notice:not(:empty)").inner_text()
    assert "All toggles are off: choose at least one" in said
    visitor.wait_for_draft("echo hi")


def test_responsibility_is_what_each_expert_brought(
    visitor: Visitor, engine: ScriptedEngine
) -> None:
    run = visitor.run("Explain photosynthesis.")
    visitor.page.get_by_label("Colour by").select_option("responsibility")
    names = (
        visitor.strip(run)
        .locator(".tok")
        .evaluate_all("all => all.map(t => t.getAttribute('aria-label').split(', ').pop())")
    )
    visitor.page.get_by_label("Colour by").select_option("deviation")
    for step, shown in zip(engine.streams[-1].steps, names, strict=True):
        shares = {e: w * math.exp(step.logprobs[e]) for e, w in step.weights.items()}
        best = max(shares, key=shares.__getitem__)
        share = 100 * shares[best] / sum(shares.values())
        assert shown.rsplit(" ", 1)[0] == best
        assert float(shown.rsplit(" ", 1)[1].rstrip("%")) == pytest.approx(share, abs=0.6)


def test_a_token_tells_a_screen_reader_its_expert_and_weight(
    visitor: Visitor, engine: ScriptedEngine
) -> None:
    run = visitor.run("Explain photosynthesis.")
    step, steps = engine.streams[-1].steps[2], engine.streams[-1].steps
    label = visitor.strip(run).locator(".tok").nth(2)
    rises = {e: w - sum(s.weights[e] for s in steps) / len(steps) for e, w in step.weights.items()}
    riser = max(rises, key=rises.__getitem__)
    shown = f"{100 * step.weights[riser]:.0f}%, {100 * rises[riser]:.0f} points above its mean"
    assert label.get_attribute("aria-label") == f"{step.text}, {riser} {shown}"
    visitor.page.get_by_label("Colour by").select_option("weight")
    best = max(step.weights, key=step.weights.__getitem__)
    shown = f"{100 * step.weights[best]:.0f}%"
    assert label.get_attribute("aria-label") == f"{step.text}, {best} {shown}"
    visitor.page.get_by_label("Colour by").select_option("deviation")


FILE = """([file, weights]) => {
  const {unitLook, legendOf, layerOf, emptyData, addRow} = new Function(
    file + '; return {unitLook, legendOf, layerOf, emptyData, addRow};')();
  const experts = weights[0].map((_, k) => 'abc'[k]);
  const data = emptyData({dimensions: [], shapes: '✚✖✦', firstExtra: 0}, experts);
  for (const w of weights) addRow(data, ['x', 1, w, 0.5, w.map(() => -1), 1, 1, [], {}, 1]);
  return {looks: weights.map((_, i) => unitLook(data, 'deviation', i, i + 1)),
    legend: legendOf(data, 'deviation'), layer: layerOf(data, "deviation").label};
}"""


STRIP = """([file, text]) => {
  const node = document.createElement('p');
  const Strip = new Function(file + '; return Strip;')();
  new Strip(node).grow({text, experts: [], weight: []}, 'weight');
  return [node.textContent, node.querySelectorAll('.tok').length];
}"""


def test_a_strip_is_text_without_colours(visitor: Visitor) -> None:
    """Nothing but its own file and that of texts is needed to lay tokens out."""
    file = "\n".join(assets.text(name) for name in ("text.js", "strip.js"))
    tokens = ["الن", "بات", " ", "تص", ".", "\n", "Hi"]
    assert visitor.page.evaluate(STRIP, [file, tokens]) == ["".join(tokens), len(tokens)]


def looks(visitor: Visitor, weights: list[list[float]]) -> dict[str, Any]:
    file = "\n".join(assets.text(name) for name in ("text.js", "colouring.js", "trace.js"))
    found: dict[str, Any] = visitor.page.evaluate(FILE, [file, weights])
    return found


def test_weights_that_move_are_seen_where_one_expert_is_always_the_largest(
    visitor: Visitor,
) -> None:
    found = looks(visitor, [[0.8, 0.1, 0.1], [0.7, 0.2, 0.1], [0.7, 0.1, 0.2], [0.7, 0.2, 0.1]])
    assert [look["slot"] for look in found["looks"]] == [0, 1, 2, 1]
    strengths = [look["strength"] for look in found["looks"]]
    assert strengths[1] < strengths[0]  # 5 and 7.5 points above their means
    assert strengths[1] < strengths[2]
    assert "mean" in found["legend"]


@pytest.mark.parametrize("weights", [[[0.5, 0.3, 0.2]] * 4, [[1.0]] * 4])
def test_where_weights_stand_still_the_expert_behind_a_token_gives_the_colour(
    visitor: Visitor, weights: list[list[float]]
) -> None:
    found = looks(visitor, weights)
    assert [look["slot"] for look in found["looks"]] == [0] * 4
    assert [look["strength"] for look in found["looks"]] == pytest.approx([weights[0][0]] * 4)
    assert ("do not move" in found["legend"]) == (len(weights[0]) > 1)
    shown = "responsibility" if len(weights[0]) > 1 else "probabilities by expert"
    assert found["layer"] == shown


@pytest.mark.parametrize(
    ("experts", "shown", "idle"),
    [
        (3, "responsibility", ["rise and fall of weights: weights do not move"]),
        (1, "chance", [f"{layer}: one expert alone" for layer in
                       ("rise and fall of weights", "weights", "responsibility")]),
    ],
)  # fmt: skip
def test_the_map_says_which_layers_say_nothing_of_a_reply(
    visit: Visit, experts: int, shown: str, idle: list[str]
) -> None:
    visitor = visit()
    trace = a_trace()
    weights = [1.0] if experts == 1 else [0.5, 0.3, 0.2]
    shares = dict(zip(trace["poles"][:experts], weights, strict=True))
    for step in trace["steps"]:
        step["weights"] = shares
    replay(visitor, json.dumps(trace))
    visitor.wait("")
    layers = visitor.page.locator(".mpd-layer")
    expect(layers).to_have_value(shown)
    assert layers.locator("option:disabled").all_inner_texts() == idle
    visitor.run("echo weights that move")
    expect(layers).to_have_value("deviation")  # what was wished
    assert layers.locator("option:disabled").count() == 0


def test_units_share_one_colour_of_averaged_weights(visitor: Visitor) -> None:
    run = visitor.run("Explain photosynthesis.")
    labels = "all => all.map(t => t.getAttribute('aria-label').split(', ').pop())"
    tokens = visitor.strip(run).locator(".tok")
    visitor.page.locator(".mpd-unit").select_option("sentence")
    said = tokens.evaluate_all(labels)
    assert len(set(said[:6])) == 1
    assert len(set(said)) < 8
    visitor.page.locator(".mpd-unit").select_option("token")
    assert len(set(tokens.evaluate_all(labels))) > 8


def test_divergence_is_scaled_to_what_the_reply_has(visitor: Visitor) -> None:
    run = visitor.run("Explain photosynthesis.")
    visitor.page.get_by_label("Colour by").select_option("divergence")
    strength = "all => all.map(t => +t.style.getPropertyValue('--a'))"
    shares = visitor.strip(run).locator(".tok").evaluate_all(strength)
    visitor.page.get_by_label("Colour by").select_option("deviation")
    assert max(shares) == pytest.approx(1, abs=0.01)
    assert sum(shares) / len(shares) > 0.3


def test_an_older_turn_can_be_inspected(visitor: Visitor, engine: ScriptedEngine) -> None:
    first = visitor.run("Explain photosynthesis.")
    step = engine.streams[-1].steps[4]
    visitor.run("echo two")
    visitor.pin(first, 4)
    shown = visitor.page.locator(".mpd-detail-rows .mpd-value").all_inner_texts()
    assert [float(text.rstrip("%")) for text in shown] == pytest.approx(
        [100 * w for w in step.weights.values()], abs=0.6
    )
    assert visitor.view.get_attribute("data-run") == first


def test_show_spaces_looks_ticked_and_the_prompt_box_has_a_focus_ring(visit: Visit) -> None:
    visitor = visit()
    visitor.run("echo a b")
    box = visitor.page.locator(".mpd-marks")
    bare = box.screenshot()
    box.check()
    assert box.screenshot() != bare
    visitor.page.locator("#prompt textarea").focus()
    ring = visitor.page.locator("#prompt").evaluate("node => getComputedStyle(node).outlineWidth")
    assert ring == "3px"


def test_the_page_has_a_name_and_an_icon_of_its_own(visit: Visit, studio: str) -> None:
    page = visit().page
    html = page.request.get(studio).text()
    assert '<meta property="og:title" content="MPD Studio" />' in html
    for wrong in ("{url}", 'content="Gradio"', "Click to try out", "raw.githubusercontent"):
        assert wrong not in html
    icon = page.request.get(f"{studio}/favicon.ico")
    assert icon.headers["content-type"].startswith("image/svg")
    assert "1f4a45" in icon.text()
