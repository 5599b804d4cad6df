"""What may be believed of an answer: pure functions, no server."""

from __future__ import annotations

import contextlib
import json
import math
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mpd_core.method.merging import disagreements, merge
from mpd_core.remote.completions import BadAnswerError, completion_request, parse_answers
from mpd_core.request import Space


def answer(*listings: dict[int, float]) -> bytes:
    """A body with these listings, in order."""
    choices = [
        {"index": k, "logprobs": {"top_logprobs": [{f"token_id:{i}": v for i, v in t.items()}]}}
        for k, t in enumerate(listings)
    ]
    return json.dumps({"choices": choices}).encode()


def top(log_probs: torch.Tensor, k: int) -> dict[int, float]:
    values, ids = log_probs.topk(k)
    return dict(zip(ids.tolist(), values.tolist(), strict=True))


@given(
    logits=st.lists(st.floats(-30, 30), min_size=2, max_size=40),
    share=st.floats(0, 1),
)
def test_any_top_k_gives_a_distribution_with_its_order(logits: list[float], share: float) -> None:
    """Sums to 1, exact on what was listed, the rest even and never likelier than a listed one."""
    exact = torch.tensor(logits, dtype=torch.float64).log_softmax(-1)
    k = max(1, round(share * len(logits)))
    [got] = parse_answers(answer(top(exact, k)), 1, len(logits), k)
    assert got.log_probs.isfinite().all()
    assert got.log_probs.double().exp().sum() == pytest.approx(1, abs=1e-5)
    mass = float(exact.exp()[got.listed].sum())
    assert got.missing == pytest.approx(max(1 - mass, 0), abs=1e-9)
    assert 0 <= got.missing <= 1
    assert got.listed.tolist() == sorted(top(exact, k))
    torch.testing.assert_close(
        got.log_probs[got.listed].double(), exact[got.listed], atol=1e-5, rtol=1e-5
    )
    others = torch.ones(len(logits), dtype=torch.bool)
    others[got.listed] = False
    if others.any():
        rest = got.log_probs[others]
        assert (rest == rest[0]).all()
        assert rest[0] <= got.log_probs[got.listed].min() + 1e-5


def test_missing_mass_by_hand() -> None:
    """0.5 and 0.3 of five tokens: the other three share 0.2."""
    [got] = parse_answers(answer({3: math.log(0.5), 0: math.log(0.3)}), 1, 5, 2)
    assert got.missing == pytest.approx(0.2)
    expected = torch.tensor([0.3, 0.2 / 3, 0.2 / 3, 0.5, 0.2 / 3])
    torch.testing.assert_close(got.log_probs.exp(), expected)


def test_certain_expert_stays_finite_through_the_merge() -> None:
    """A listed 1 leaves the others tiny, not impossible: no NaN in either space, JSON can hold."""
    answers = parse_answers(answer({1: 0.0}, {2: -9999.0, 0: -1e-7}), 2, 4, 1)
    log_probs, weights = torch.stack([a.log_probs for a in answers]), torch.tensor([1.0, 0.0])
    for space in get_args(Space):
        assert merge(space, log_probs, weights).exp().sum() == pytest.approx(1, abs=1e-6)
    assert all(d.isfinite() for d in disagreements(log_probs, weights))
    assert log_probs.isfinite().all()


def test_rounding_above_one_is_taken_out() -> None:
    [got] = parse_answers(answer({0: math.log(0.6002), 1: math.log(0.4003)}), 1, 2, 2)
    assert got.missing == 0
    assert got.log_probs.exp().sum() == pytest.approx(1, abs=1e-6)


def test_a_whole_vocabulary_must_sum_to_one() -> None:
    with pytest.raises(BadAnswerError, match=r"left 0\.79"):
        parse_answers(answer({0: math.log(0.01), 1: math.log(0.2)}), 1, 2, 2)


def listed(pairs: str) -> str:
    return f'{{"choices":[{{"index":0,"logprobs":{{"top_logprobs":[{{{pairs}}}]}}}}]}}'


HALF = '"token_id:1":-0.7,'
BAD: dict[str, tuple[str, str]] = {
    "empty": ("", "not whole JSON"),
    "deep": ("[" * 100_000, "not whole JSON"),
    "not utf-8": ("\udcff", "not whole JSON"),
    "number": ("1", "no choices"),
    "choices": ('{"choices":[1]}', "no choices"),
    "no logprobs": ('{"choices":[{"index":0,"logprobs":null}]}', "no log-probabilities"),
    "two steps": (
        '{"choices":[{"index":0,"logprobs":{"top_logprobs":[{"token_id:1":-1},{}]}}]}',
        "no log-probabilities",
    ),
    "empty listing": (listed(""), "no log-probabilities"),
    "bool index": (listed(HALF).replace(":0,", ":false,"), "not whole JSON"),
    "index": (listed('"token_id:1":-0.7').replace(":0,", ":1,"), "1 choices for 1 prompts"),
    "float index": (listed('"token_id:1":-0.7').replace(":0,", ":0.0,"), "1 choices for 1"),
    "word": (listed('" the":-0.7'), "named a token ' the'"),
    "negative id": (listed('"token_id:-1":-0.7'), "named a token"),
    "leading zero": (listed('"token_id:01":-0.7'), "named a token"),
    "long id": (listed(f'"token_id:{"1" * 60}":-0.7'), "named a token"),
    "id outside": (listed('"token_id:4":-0.7'), "listed token 4, and the vocabulary has 4"),
    "twice": (listed(HALF + '"token_id:1":-0.8'), "twice"),
    "NaN": (listed(HALF + '"token_id:2":NaN'), "'nan' as a log-probability"),
    "Infinity": (listed(HALF + '"token_id:2":Infinity'), "'inf'"),
    "-Infinity": (listed(HALF + '"token_id:2":-Infinity'), "'-inf'"),
    "overflow": (listed(HALF + '"token_id:2":-1e999'), "'-inf'"),
    "long integer": (listed(HALF + f'"token_id:2":-{"9" * 400}'), "'-999"),
    "positive": (listed('"token_id:2":0.5'), "'0.5'"),
    "text": (listed('"token_id:2":"-1"'), "'-1'"),
    "null": (listed('"token_id:2":null'), "'None'"),
    "true": (listed('"token_id:2":true'), "'True'"),
    "sum": (listed(HALF + '"token_id:2":-0.6'), "sum to 1.045"),
    "few": (listed('"token_id:2":-1e-9'), "listed 1 tokens of the 2"),
    "not the top": (listed('"token_id:2":-3,"token_id:1":-4'), "likeliest tokens"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_no_honest_server_sends(case: str) -> None:
    text, message = BAD[case]
    with pytest.raises(BadAnswerError, match=message) as error:
        parse_answers(text.encode("utf-8", "surrogateescape"), 1, 4, 2)
    assert "\n" not in str(error.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=True) | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@given(value=JSON, where=st.sampled_from(["body", "choices", "choice", "logprobs", "top", "value"]))
def test_any_json_anywhere_is_refused_or_a_distribution(value: Any, where: str) -> None:
    body: Any = value
    for key, wrap in (
        ("value", lambda inner: {"token_id:1": inner}),
        ("top", lambda inner: [inner]),
        ("logprobs", lambda inner: {"top_logprobs": inner}),
        ("choice", lambda inner: {"index": 0, "logprobs": inner}),
        ("choices", lambda inner: [inner]),
        ("body", lambda inner: {"choices": inner}),
    ):
        order = ["value", "top", "logprobs", "choice", "choices", "body"]
        if order.index(key) >= order.index(where):
            body = wrap(body)
    with contextlib.suppress(BadAnswerError):
        [got] = parse_answers(json.dumps(body).encode(), 1, 4, 1)
        assert got.log_probs.exp().sum() == pytest.approx(1, abs=1e-5)


def test_request_is_what_vllm_takes() -> None:
    body = json.loads(completion_request("friendly", [(1, 2), (3,)], 20))
    assert body == {
        "model": "friendly",
        "prompt": [[1, 2], [3]],
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": 20,
        "return_tokens_as_token_ids": True,
        "add_special_tokens": False,
    }
