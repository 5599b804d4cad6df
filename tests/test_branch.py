"""A reply that leaves another one: the same tokens first, then other weights or another token."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from mpd_core.analysis import trace_from_dict
from mpd_core.engine import Engine
from mpd_core.errors import RequestError
from mpd_core.method.merging import disagreements, merge_probabilities
from mpd_core.packs import Pack
from mpd_core.request import Branch, GenerationRequest
from mpd_core.trace import Trace
from tests.test_crowd import PROMPTS, assert_equal
from tests.test_engine import ask

WEIGHTS = (0.5, 0.125, 0.375)


@pytest.fixture(scope="module", params=[0, 1], ids=["plain", "trunk"])
def engine(make_pack: Callable[..., Pack], request: pytest.FixtureRequest) -> Iterator[Engine]:
    pack = make_pack(prompt="own", adapters=True, pcm_trained=True, first_layer=request.param)
    engine = Engine.open(pack, kept_rows=8)
    yield engine
    engine.close()


def branched(
    request: GenerationRequest, whole: Trace, at: int, **changes: Any
) -> GenerationRequest:
    prefix = tuple(step.token_id for step in whole.steps[:at])
    return replace(request, branch=Branch(prefix, **changes))


LONG = {"max_new_tokens": 24, "temperature": 1.1, "repetition_penalty": 1.2, "dry_multiplier": 0.8}
CODES = [("AAB", "probability"), ("BAB", "logit"), ("BBA", "probability"), ("-BA", "strength")]
ASKED = [
    ask(PROMPTS[k % 3], code, space=space, seed=k, **LONG) for k, (code, space) in enumerate(CODES)
]


ASKED[3] = replace(ASKED[3], strength=2.5, settled=0.4, fade=6.0)  # B depends on the place


@pytest.mark.parametrize("at", [1, 2, 11, 23])
def test_a_branch_without_a_change_is_the_reply_to_the_bit(engine: Engine, at: int) -> None:
    """Alone, and in a crowd of branches and whole replies that come and go."""
    whole = [engine.generate(request) for request in ASKED]
    branches = [
        branched(r, w, min(at, len(w.steps) - 1)) for r, w in zip(ASKED, whole, strict=True)
    ]
    for request, expected in zip(branches, whole, strict=True):
        start = len(request.branch.prefix) if request.branch else 0
        steps = engine.generate(request).steps
        assert_equal(engine, steps, expected.steps[start:])
        assert [s.index for s in steps] == list(range(start, len(expected.steps)))
    streams = [engine.submit(r) for pair in zip(branches, ASKED, strict=True) for r in pair]
    for k, stream in enumerate(streams):
        branch = stream_request(branches, k)
        start = len(branch.prefix) if branch else 0
        assert_equal(engine, tuple(stream), whole[k // 2].steps[start:])


def stream_request(branches: list[GenerationRequest], k: int) -> Branch | None:
    return branches[k // 2].branch if k % 2 == 0 else None


def test_text_and_prompt_are_the_replys_even_inside_a_character(engine: Engine) -> None:
    request = ask("explain 你好 😀 " * 4, "AAB", temperature=1.5, seed=4, max_new_tokens=40)
    whole = engine.generate(request)
    for at in range(1, len(whole.steps)):
        part = engine.generate(branched(request, whole, at))
        before = "".join(step.text for step in whole.steps[:at])
        assert before + part.text == whole.text
        assert part.prompt_tokens == whole.prompt_tokens
        assert part.finish_reason == whole.finish_reason


def test_lasting_weights_are_those_of_the_static_method(engine: Engine) -> None:
    forced = replace(ASKED[0], branch=Branch(weights=WEIGHTS, lasting=True))
    static = replace(ASKED[0], method="static:" + ",".join(map(str, WEIGHTS)))
    steps = engine.generate(forced).steps
    assert_equal(engine, steps, engine.generate(static).steps)
    assert all(tuple(step.weights.values()) == pytest.approx(WEIGHTS) for step in steps)


def test_weights_of_one_token_change_that_one_alone(engine: Engine) -> None:
    """The step is the mixture of the recorded experts under these weights, the rest the PCM's."""
    whole = engine.generate(ASKED[0])
    steps = engine.generate(branched(ASKED[0], whole, 5, weights=WEIGHTS)).steps
    assert tuple(steps[0].weights.values()) == pytest.approx(WEIGHTS)
    mixed = sum(w * math.exp(steps[0].logprobs[e]) for e, w in steps[0].weights.items())
    assert steps[0].probability == pytest.approx(mixed, rel=1e-4)
    same = {c.token_id: c.logprobs for c in whole.steps[5].top_k}
    shared = [c for c in steps[0].top_k if c.token_id in same]
    assert shared
    assert all(dict(c.logprobs) == dict(same[c.token_id]) for c in shared)
    ids = tuple(s.token_id for s in (*whole.steps[:5], steps[0]))
    rest = engine.generate(replace(ASKED[0], branch=Branch(ids))).steps
    assert_equal(engine, steps[1:], rest)


def test_another_token_is_recorded_with_its_own_numbers(engine: Engine) -> None:
    whole = engine.generate(ASKED[0])
    other = next(c for c in whole.steps[3].top_k if c.token_id != whole.steps[3].token_id)
    trace = engine.generate(branched(ASKED[0], whole, 3, token=other.token_id))
    first = trace.steps[0]
    assert (first.index, first.token_id) == (3, other.token_id)
    assert first.probability == other.probability
    assert dict(first.logprobs) == dict(other.logprobs)
    assert trace.branch is not None
    assert trace.branch["token"] == other.token_id
    assert trace_from_dict(trace.to_dict()).to_json() == trace.to_json()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"branch": Branch((10**6,))}, "1000000 is no token"),
        ({"branch": Branch(token=10**6)}, "1000000 is no token"),
        ({"branch": Branch((2,))}, "holds the end of a reply"),
        ({"branch": Branch(weights=(0.5, 0.5))}, "give 3 weights"),
        ({"branch": Branch(weights=(0.5, 0.5, 0.5))}, "add up to 1"),
        ({"branch": Branch(weights=(1.0,)), "method": "vanilla"}, "nothing to weigh"),
        ({"branch": Branch(weights=(1.0,)), "method": "soup"}, "nothing to weigh"),
        ({"branch": Branch(weights=(1.0,)), "method": "expert:up0"}, "nothing to weigh"),
    ],
)
def test_what_a_method_cannot_have_is_refused_in_a_sentence(
    engine: Engine, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        engine.submit(replace(ask(), **changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"prefix": [1]}, {"prefix": (1.5,)}, {"prefix": (-1,)}, {"prefix": (True,)},
        {"prefix": (1,) * 4096}, {"token": "x"}, {"weights": [1.0]}, {"weights": (math.nan,)},
        {"weights": (-0.1, 1.1)}, {"weights": (None,)}, {"lasting": 1},
    ],
    ids=range(11),
)  # fmt: skip
def test_a_branch_of_the_wrong_kind_is_refused_where_it_is_made(fields: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="branch"):
        Branch(**fields)


def test_a_branch_needs_room_for_a_token() -> None:
    with pytest.raises(RequestError, match="begins with 12 tokens and max_new_tokens is 12"):
        replace(ask(max_new_tokens=12), branch=Branch((5,) * 12))


def test_divergence_counts_every_expert_alike() -> None:
    """Against its definition, and where one expert has all the weight."""
    said = torch.tensor([[[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]]]).log()
    corner, equal = torch.tensor([[1.0, 0.0, 0.0]]), torch.full((1, 3), 1 / 3)
    weighted, alike = disagreements(said, corner)
    assert weighted.item() == pytest.approx(0.0, abs=1e-6)
    assert alike.item() == pytest.approx(disagreements(said, equal)[0].item(), abs=1e-6)
    mean = merge_probabilities(said, equal)[0].exp()

    def h(p: torch.Tensor) -> float:
        return -float((p * p.log()).sum())

    by_hand = h(mean) - sum(h(p) for p in said[0].exp()) / 3
    assert alike.item() == pytest.approx(by_hand, abs=1e-6)
    assert alike.item() > 0.1


def test_every_step_says_how_far_its_experts_lie_apart(engine: Engine) -> None:
    steps = engine.generate(replace(ASKED[0], method="static:1,0,0")).steps
    assert max(step.disagreement for step in steps) < 1e-5
    assert max(step.divergence for step in steps) > 0.01
    uniform = engine.generate(replace(ASKED[0], method="uniform")).steps
    assert [s.divergence for s in uniform] == [s.disagreement for s in uniform]
