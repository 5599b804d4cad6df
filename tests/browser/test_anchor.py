"""What the real engine records of shifts from a moved start is what the page weighs anew."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from mpd_core.engine import Engine
from mpd_core.packs import Pack
from mpd_core.request import GenerationRequest, Message, Sampling
from mpd_core.trace import Trace
from mpd_core.ui import assets
from tests.browser.conftest import MARKS, Visitor
from tests.browser.test_inspect import MATHS, number
from tests.browser.test_keep import replay

pytestmark = MARKS
STEP = 2


@pytest.fixture(params=[0.0, 0.5])
def reply(make_pack: Callable[..., Pack], request: pytest.FixtureRequest) -> Trace:
    """A reply in the space "strength" that starts at the base, or half way to the anchor."""
    pack = make_pack(prompt="plain", adapters=True, anchor=True, prior=request.param)
    asked = GenerationRequest(
        (Message("user", "Why is the sky blue?"),), "AAB", "mpd", "strength",
        Sampling(max_new_tokens=4), strength=1.7, settled=0.4, fade=3.0, plausibility=0.0,
    )  # fmt: skip
    engine = Engine.open(pack)
    try:
        with engine.submit(asked) as stream:
            list(stream)
    finally:
        engine.close()
    return stream.trace()


def test_start_and_anchor_are_shown_and_weighed(visitor: Visitor, reply: Trace) -> None:
    replay(visitor, reply.to_json())
    visitor.pin(visitor.wait(""), STEP)
    step = reply.steps[STEP]
    shown = visitor.page.locator(".mpd-anchors > span").all_inner_texts()
    assert [text.split()[0] for text in shown] == ["start", "anchor"]
    chances = [math.exp(step.logprobs[name]) for name in ("plain", "anchor")]
    assert chances[0] != pytest.approx(chances[1], rel=1e-3)
    assert [number(text.split()[-1]) for text in shown] == pytest.approx(chances, abs=6e-4)

    voices = [*step.weights, "plain", "anchor"]
    top = [
        {
            "id": c.token_id,
            "text": c.text,
            "p": c.probability,
            "lp": [c.logprobs[voice] for voice in voices],
        }
        for c in step.top_k
    ]
    weights = list(step.weights.values())
    others = [weight + 1e-3 for weight in weights]  # else the answer is simply what was recorded
    numbers = {"strength": 1.7 * (0.4 + 0.6 * math.exp(-STEP / 3.0)), "plausibility": 0.0}
    names = ("text.js", "colouring.js", "trace.js", "whatif.js")
    file = "\n".join(assets.text(name) for name in names)
    found = visitor.page.evaluate(
        MATHS, [file, top, weights, others, "strength", numbers, len(top)]
    )
    again = {row["token"]["id"]: row["low"] for row in found["rows"]}
    total = sum(c.probability for c in step.top_k)
    expected = {c.token_id: c.probability / total for c in step.top_k}
    assert again == pytest.approx(expected, rel=1e-3)
