"""Eq. 1 and sampling by numbers that can be checked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mpd_core.merging import (
    choose,
    disagreement,
    draw,
    entropy,
    merge_logits,
    merge_probabilities,
    nucleus,
    penalise,
)
from mpd_core.request import Sampling

P = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]])


def random_experts(experts: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(experts, 17, generator=generator) * 4
    weights = torch.softmax(torch.randn(experts, generator=generator) * 2, dim=-1)
    return torch.log_softmax(logits, dim=-1), weights


def test_probability_space_by_hand() -> None:
    """0.25 * (0.5, 0.25, 0.25) + 0.75 * (0.1, 0.8, 0.1) = (0.2, 0.6625, 0.1375)."""
    merged = merge_probabilities(P.log(), torch.tensor([0.25, 0.75])).exp()
    torch.testing.assert_close(merged, torch.tensor([0.2, 0.6625, 0.1375]))


def test_logit_space_by_hand() -> None:
    """Equal weights give the normalised geometric mean: sqrt(p q) / sum sqrt(p q)."""
    merged = merge_logits(P.log(), torch.tensor([0.5, 0.5])).exp()
    raw = torch.tensor([math.sqrt(0.05), math.sqrt(0.2), math.sqrt(0.025)])
    torch.testing.assert_close(merged, raw / raw.sum())


def test_logit_space_ignores_each_experts_constant() -> None:
    """softmax(sum alpha z) with raw logits is what log-probabilities give."""
    logits, weights = torch.randn(3, 11) * 5 + 40, torch.tensor([0.2, 0.5, 0.3])
    direct = torch.softmax((weights[:, None] * logits).sum(0), dim=-1)
    torch.testing.assert_close(merge_logits(logits.log_softmax(-1), weights).exp(), direct)


@given(experts=st.integers(1, 6), seed=st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_convexity(experts: int, seed: int) -> None:
    """The mixture is a distribution and lies between the least and the most generous expert."""
    log_probs, weights = random_experts(experts, seed)
    merged = merge_probabilities(log_probs, weights).exp()
    probs = log_probs.exp()
    assert merged.sum() == pytest.approx(1.0, abs=1e-5)
    assert (merged <= probs.max(0).values + 1e-6).all()
    assert (merged >= probs.min(0).values - 1e-6).all()


@pytest.mark.parametrize("merge", [merge_probabilities, merge_logits])
def test_one_hot_weights_are_one_expert(merge: object) -> None:
    log_probs, _ = random_experts(4, 3)
    for expert in range(4):
        one_hot = torch.eye(4)[expert]
        torch.testing.assert_close(merge(log_probs, one_hot), log_probs[expert])  # type: ignore[operator]


@pytest.mark.parametrize("merge", [merge_probabilities, merge_logits])
def test_equal_experts_are_that_expert(merge: object) -> None:
    log_probs, _ = random_experts(1, 5)
    _, weights = random_experts(3, 6)
    torch.testing.assert_close(merge(log_probs.expand(3, -1), weights), log_probs[0])  # type: ignore[operator]


def test_spaces_differ() -> None:
    log_probs, weights = random_experts(3, 9)
    gap = merge_probabilities(log_probs, weights).exp() - merge_logits(log_probs, weights).exp()
    assert gap.abs().max() > 0.01


def test_merging_keeps_leading_axes() -> None:
    pairs = [random_experts(3, seed) for seed in range(5)]
    log_probs, weights = (torch.stack(parts) for parts in zip(*pairs, strict=True))
    merged = merge_probabilities(log_probs, weights)
    assert merged.shape == (5, 17)
    torch.testing.assert_close(merged[2], merge_probabilities(*pairs[2]))


def test_entropy_by_hand() -> None:
    assert entropy(torch.tensor([0.5, 0.5, 0.0]).log()) == pytest.approx(math.log(2))
    assert entropy(torch.tensor([1.0, 0.0]).log()) == pytest.approx(0.0)


def test_disagreement_by_hand() -> None:
    """Two certain experts who differ: H(mixture) = ln 2, each has entropy 0."""
    apart = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).log()
    half = torch.tensor([0.5, 0.5])
    assert disagreement(apart, half) == pytest.approx(math.log(2))
    assert disagreement(P[[0, 0]].log(), half) == pytest.approx(0.0, abs=1e-6)


def test_penalty_lowers_only_what_was_said() -> None:
    log_probs = torch.tensor([[-1.0, -2.0, -3.0]] * 2)
    scores = penalise(log_probs, [[1, 1], [0]], [1.5, 1.0])
    assert scores.tolist() == [[-1.0, -3.0, -3.0], [-1.0, -2.0, -3.0]]
    assert penalise(log_probs, [[1], []], [1.0, 2.0]) is log_probs


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(0.05, [1]), (0.6, [1]), (0.7, [0, 1]), (0.95, [0, 1, 2]), (1.0, [0, 1, 2])],
)
def test_nucleus(top_p: float, kept: list[int]) -> None:
    whole, cut = nucleus(torch.tensor([[0.25, 0.65, 0.1]] * 2), torch.tensor([1.0, top_p]))
    assert whole.tolist() == pytest.approx([0.25, 0.65, 0.1])
    assert cut.nonzero().flatten().tolist() == kept


def pick(log_probs: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """The first token of one reply."""
    return int(choose(log_probs[None], [sampling], [[]], [draw(generator)]))


def test_replies_are_chosen_as_if_alone() -> None:
    """A batch of settings gives each reply what it gets by itself."""
    log_probs = torch.stack([P[0].log(), P[1].log(), P[0].log()])
    samplings = [
        Sampling(temperature=1.0, top_p=0.7),
        Sampling(),
        Sampling(temperature=0.5, repetition_penalty=1.5),
    ]
    seen, draws = [[0], [1], [0, 2]], [0.9, 0.1, 0.6]
    both = choose(log_probs, samplings, seen, draws)
    for row in range(3):
        one = choose(
            log_probs[row, None],
            samplings[row : row + 1],
            seen[row : row + 1],
            draws[row : row + 1],
        )
        assert both[row] == one


def test_greedy_takes_the_likeliest() -> None:
    assert pick(P[1].log(), Sampling(temperature=0.0), torch.Generator()) == 1


def test_draws_follow_the_tempered_distribution() -> None:
    """10,000 draws at temperature 0.5 against p^2 / sum p^2, within four standard errors."""
    generator = torch.Generator().manual_seed(0)
    sampling = Sampling(temperature=0.5)
    draws = torch.tensor([pick(P[0].log(), sampling, generator) for _ in range(10_000)])
    expected = P[0] ** 2 / (P[0] ** 2).sum()
    share = torch.bincount(draws, minlength=3) / len(draws)
    assert ((share - expected).abs() < 4 * (expected * (1 - expected) / len(draws)).sqrt()).all()


def test_top_p_applies_after_temperature() -> None:
    """At temperature 0.25 0.5 of (0.5, 0.25, 0.25) becomes 8/9: a whole nucleus of 0.85."""
    generator = torch.Generator().manual_seed(0)
    sampling = Sampling(temperature=0.25, top_p=0.85)
    assert {pick(P[0].log(), sampling, generator) for _ in range(200)} == {0}


def test_a_draw_costs_one_number_whatever_the_setting() -> None:
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]
    pick(P[0].log(), Sampling(temperature=0.0), generators[0])
    pick(P[0].log(), Sampling(temperature=1.0, top_p=0.5), generators[1])
    states = [generator.get_state() for generator in generators]
    assert torch.equal(*states)
