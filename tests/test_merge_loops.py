"""A step's merging in compiled loops is ``method.merging``, whatever is merged beside it."""

from __future__ import annotations

import math
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from mpd_core.engine.distribution import Distribution, LoopDistribution, Mixing
from mpd_core.models.chunk_code import CHUNK, find_best, sum_chunk
from mpd_core.models.compiling import compiled
from mpd_core.models.number_code import log
from mpd_core.request import Space

SIZES = (7, CHUNK, 2 * CHUNK + 300)
TOP = 5


def mixing(space: Space, count: int, experts: int, plausibility: float = 0.0) -> Mixing:
    random = torch.Generator().manual_seed(experts)
    weights = torch.softmax(torch.randn(count, experts, generator=random), dim=-1)
    return Mixing(space, weights, torch.linspace(1.0, 4.0, count), plausibility)


def random_logits(*size: int) -> Tensor:
    return 3 * torch.randn(*size, generator=torch.Generator().manual_seed(1))


def in_loops(logits: Tensor, how: Mixing) -> LoopDistribution:
    return LoopDistribution([list(own) for own in logits], how)


def numbers(found: Any, tokens: Tensor) -> list[tuple[list[float], list[float]]]:
    every = found.describe(tokens, TOP)
    return [(s.log_probs[0], [s.entropy, s.disagreement, s.divergence, *s.weights]) for s in every]


@pytest.mark.parametrize("vocabulary", SIZES)
@pytest.mark.parametrize("experts", [1, 3])
@pytest.mark.parametrize(
    ("space", "anchors", "floor"),
    [
        ("probability", 0, 0.0),
        ("logit", 0, 0.0),
        ("strength", 1, 0.0),
        ("strength", 1, 0.15),
        ("strength", 2, 0.15),
    ],
)
def test_loops_merge_as_the_method_says(
    vocabulary: int, experts: int, space: Space, anchors: int, floor: float
) -> None:
    logits, how = random_logits(2, experts + anchors, vocabulary), mixing(space, 2, experts, floor)
    found, wanted = in_loops(logits, how), Distribution.of(logits, how)
    torch.testing.assert_close(found.merged, wanted.merged, atol=3e-5, rtol=1e-5)
    assert bool(found.merged.isinf().any()) == (floor > 0)
    tokens = found.merged.argmax(dim=-1)
    for ours, other in zip(numbers(found, tokens), numbers(wanted, tokens), strict=True):
        assert ours[0] == pytest.approx(other[0], abs=1e-5)
        assert ours[1] == pytest.approx(other[1], abs=1e-5)


@pytest.mark.parametrize("vocabulary", SIZES)
def test_candidates_are_the_likeliest_of_all_and_what_everybody_says_of_them(
    vocabulary: int,
) -> None:
    logits, how = random_logits(2, 4, vocabulary), mixing("strength", 2, 3)
    tokens = torch.tensor([3, vocabulary - 1])
    found, wanted = (
        d.describe(tokens, TOP) for d in (in_loops(logits, how), Distribution.of(logits, how))
    )
    for ours, other in zip(found, wanted, strict=True):
        assert (ours.token, ours.candidates) == (other.token, other.candidates)
        for row, expected in zip(ours.log_probs, other.log_probs, strict=True):
            assert row == pytest.approx(expected, abs=3e-5)


@pytest.mark.parametrize("space", get_args(Space))
def test_a_mixture_is_alone_what_it_is_among_others(space: Space) -> None:
    logits, how = random_logits(6, 4 if space == "strength" else 3, 3000), mixing(space, 6, 3, 0.1)
    tokens = torch.arange(6)
    together = in_loops(logits, how)
    every = together.describe(tokens, TOP)
    for k in range(6):
        own = slice(k, k + 1)
        part = Mixing(space, how.weights[own], how.strengths[own], how.plausibility)
        alone = in_loops(logits[own], part)
        assert torch.equal(alone.merged[0], together.merged[k])
        assert alone.describe(tokens[own], TOP) == [every[k]]


@pytest.mark.parametrize("broken", [math.nan, math.inf])
@pytest.mark.parametrize("place", [0, CHUNK + 5])
@pytest.mark.parametrize("space", get_args(Space))
def test_what_is_broken_is_seen_and_breaks_nobody_else(
    broken: float, place: int, space: Space
) -> None:
    logits, how = random_logits(2, 4 if space == "strength" else 3, 3000), mixing(space, 2, 3, 0.1)
    whole = in_loops(logits, how).merged[0].clone()
    logits[1, 2, place] = broken
    found = in_loops(logits, how)
    assert torch.equal(found.merged[0], whole)
    assert [s.is_finite for s in found.describe(torch.zeros(2, dtype=torch.long), TOP)] == [
        True,
        False,
    ]


def test_an_expert_without_weight_and_an_impossible_token_take_no_part() -> None:
    """As with ``top-1``, and where a server lists some tokens only."""
    logits = random_logits(1, 2, 3000)
    logits[0, 0, 2100:] = -math.inf  # a whole chunk of it, too
    how = Mixing("probability", torch.tensor([[1.0, 0.0]]), torch.ones(1), 0.0)
    found = in_loops(logits, how).merged[0]
    torch.testing.assert_close(found, logits[0, 0].log_softmax(-1), atol=1e-5, rtol=1e-5)


def test_of_equal_tokens_the_first_are_the_best() -> None:
    x = np.zeros(3 * CHUNK, np.float32)
    x[[CHUNK + 3, 2 * CHUNK + 1]] = 1.0
    sums, places = np.empty((3, 3), np.float32), np.empty(4, np.int64)
    for chunk in range(3):
        sum_chunk(x[chunk * CHUNK : (chunk + 1) * CHUNK], sums[chunk])
    find_best(x, sums, places)
    assert places.tolist() == [CHUNK + 3, 2 * CHUNK + 1, 0, 1]


def test_log_is_exact_to_fp32() -> None:
    @compiled()
    def log_all(x: Any, out: Any) -> None:
        for i in range(len(x)):
            out[i] = log(x[i])

    x = np.concatenate([np.geomspace(1.2e-38, 3e38, 20001), np.linspace(0.5, 2, 20001)])
    x = x.astype(np.float32)
    out = np.empty_like(x)
    log_all(x, out)
    np.testing.assert_allclose(out, np.log(x.astype(np.float64)), rtol=2e-7, atol=6e-8)
    log_all(np.array([0.0, np.inf, np.nan], np.float32), out)
    assert -88 < out[0] < -87
    assert np.isnan(out[1:3]).all()
