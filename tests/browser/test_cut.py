"""Words that are too long for their place end in an ellipsis; none is cut through."""

from __future__ import annotations

import json
from collections.abc import Callable

from tests.browser.conftest import MARKS, Visitor
from tests.browser.test_keep import a_trace, replay

pytestmark = MARKS
Visit = Callable[..., Visitor]
TOKENS = (" colleague", " incomprehensibilities", " WWWWWWWWWWWW", " 光合作用光合作用光合作用")
OUTSIDE = """all => Math.max(...all.map(token => {
  const cell = token.closest('td').getBoundingClientRect(), box = token.getBoundingClientRect();
  return Math.max(box.right - cell.right, cell.left - box.left);
}))"""
WHOLE = "token => token.scrollWidth <= token.clientWidth"
INK = """canvas => {
  const {width, height} = canvas, pen = canvas.getContext('2d');
  const inked = (...box) => pen.getImageData(...box).data.some(value => value !== 0);
  return [inked(0, height - 2, width, 2), inked(0, 0, 2, height), inked(0, height - 60, width, 50)];
}"""


def long_words(names: tuple[str, str]) -> str:
    """A trace of long tokens and candidates, by experts of some names and a friendly one."""
    trace = a_trace(60)
    for i, step in enumerate(trace["steps"]):
        step["text"] = TOKENS[i % len(TOKENS)]
        for k, candidate in enumerate(step["top_k"]):
            candidate["text"] = TOKENS[k % len(TOKENS)]
    trace["text"] = "".join(step["text"] for step in trace["steps"])
    first, second = names
    return json.dumps(trace).replace("elementary", first).replace("concise", second)


def test_the_tables_tokens_keep_to_their_columns_and_all_columns_are_in_sight(
    visit: Visit,
) -> None:
    visitor = visit(width=1440, height=1000)
    page = visitor.page
    replay(visitor, long_words(("knowledgeable", "informative")))
    visitor.pin(visitor.wait(""), 1)
    tokens = page.locator(".mpd-candidates .mpd-cell-token")
    assert page.locator(".mpd-candidates [title=' colleague']").first.evaluate(WHOLE)
    for width in (1440, 1200, 1024, 390):
        page.set_viewport_size({"width": width, "height": 1000})
        visitor.wait_for_frames()
        assert tokens.evaluate_all(OUTSIDE) < 0.6, width
        over = "node => node.scrollWidth - node.clientWidth"
        assert page.locator(".mpd-side .mpd-scroll").evaluate(over) <= 1, width


def test_the_maps_ticks_and_names_are_drawn_inside_it(visit: Visit) -> None:
    visitor = visit(width=1440, height=1000)
    replay(visitor, long_words(("W" * 20, "専門家" * 6)))
    visitor.wait("")
    visitor.wait_for_map()
    assert visitor.page.locator(".mpd-heat canvas").evaluate(INK) == [False, False, True]
