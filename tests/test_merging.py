"""Eq. 1 and sampling by numbers that can be checked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mpd_core.method.merging import (
    disagreements,
    entropy,
    fading_strength,
    merge,
    merge_probabilities,
)
from mpd_core.request import Space

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
    merged = merge("logit", P.log(), torch.tensor([0.5, 0.5])).exp()
    raw = torch.tensor([math.sqrt(0.05), math.sqrt(0.2), math.sqrt(0.025)])
    torch.testing.assert_close(merged, raw / raw.sum())


def test_logit_space_ignores_each_experts_constant() -> None:
    """softmax(sum alpha z) with raw logits is what log-probabilities give."""
    logits, weights = torch.randn(3, 11) * 5 + 40, torch.tensor([0.2, 0.5, 0.3])
    direct = torch.softmax((weights[:, None] * logits).sum(0), dim=-1)
    torch.testing.assert_close(merge("logit", logits.log_softmax(-1), weights).exp(), direct)


BASE = torch.tensor([[0.2, 0.4, 0.4]])


def test_strength_by_hand() -> None:
    """p_0 (p_1/p_0)^(B a_1) (p_2/p_0)^(B a_2), B = 2, equal weights: p_1 p_2 / p_0, normalised.

    (0.5 * 0.1 / 0.2, 0.25 * 0.8 / 0.4, 0.25 * 0.1 / 0.4) = (0.25, 0.5, 0.0625) over 0.8125.
    """
    merged = merge("strength", P.log(), torch.tensor([0.5, 0.5]), BASE.log(), 2.0).exp()
    torch.testing.assert_close(merged, torch.tensor([0.25, 0.5, 0.0625]) / 0.8125)


def test_strength_fades_to_what_is_settled() -> None:
    """6 (0.4 + 0.6 e^(-t/25)): 6 at the first token, 2.4 + 3.6/e after 25, 2.4 in the long run."""
    found = fading_strength(6.0, 0.4, 25.0, torch.tensor([0, 25, 5000]))
    torch.testing.assert_close(found, torch.tensor([6.0, 2.4 + 3.6 / math.e, 2.4]))
    assert fading_strength(6.0, 1.0, 25.0, torch.tensor([0, 25])).tolist() == [6.0, 6.0]


@pytest.mark.parametrize("fade", [1e-6, 1e-40, 1e-300, 5e-324])
def test_a_strength_may_fade_at_once(fade: float) -> None:
    """What fp32 takes for zero as well: the first token has all of it."""
    assert fading_strength(6.0, 0.5, fade, torch.tensor([0, 1, 4096])).tolist() == [6.0, 3.0, 3.0]


def test_each_distribution_may_have_its_own_strength() -> None:
    log_probs, weights = random_experts(3, 7)
    base = random_experts(1, 8)[0]
    rows = (log_probs.expand(2, -1, -1), weights.expand(2, -1), base.expand(2, 1, -1))
    merged = merge("strength", *rows, torch.tensor([0.5, 4.0]), 0.01)
    for row, strength in enumerate((0.5, 4.0)):
        assert torch.equal(merged[row], merge("strength", log_probs, weights, base, strength, 0.01))


def test_shifts_are_measured_from_the_anchor() -> None:
    """p_0 p_1 p_2 / p_a^2: (0.2 * 0.05 / 0.25, 0.4 * 0.2 / 0.0625, 0.4 * 0.025 / 0.0625)."""
    anchors = torch.stack([BASE[0], torch.tensor([0.5, 0.25, 0.25])])
    merged = merge("strength", P.log(), torch.tensor([0.5, 0.5]), anchors.log(), 2.0).exp()
    torch.testing.assert_close(merged, torch.tensor([0.04, 1.28, 0.16]) / 1.48)


@given(experts=st.integers(1, 5), seed=st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_strength_at_its_landmarks(experts: int, seed: int) -> None:
    """B = 0 is the base, B = 1 logit space, B = 1 with all weight on one expert that expert; the
    last two where shifts are measured from the base."""
    log_probs, weights = random_experts(experts, seed)
    base, other = random_experts(2, seed + 1)[0]
    both = torch.stack([base, other])
    torch.testing.assert_close(merge("strength", log_probs, weights, both, 0.0), base)
    torch.testing.assert_close(
        merge("strength", log_probs, weights, base[None], 1.0), merge("logit", log_probs, weights)
    )
    alone = torch.eye(experts)[experts // 2]
    torch.testing.assert_close(
        merge("strength", log_probs, alone, base[None], 1.0), log_probs[experts // 2]
    )


def test_strength_of_independent_attributes_is_their_joint_distribution() -> None:
    """Bayes' rule: with B = n, experts p(y | c_i) and their marginal p(y) give p(y | c)."""
    likelihoods = torch.rand(3, 7, generator=torch.Generator().manual_seed(0))  # p(c_i | y)
    prior = torch.softmax(torch.arange(7.0) / 3, dim=-1)
    experts = torch.stack([row * prior / (row * prior).sum() for row in likelihoods])
    joint = likelihoods.prod(0) * prior
    merged = merge("strength", experts.log(), torch.full((3,), 1 / 3), prior.log()[None], 3.0).exp()
    torch.testing.assert_close(merged, joint / joint.sum())


def test_the_floor_keeps_what_somebody_finds_plausible() -> None:
    """Best tokens have 0.5, 0.8 and, with the base, 0.4; a share of 0.7 keeps those and no other:
    0.35 or more, 0.56 or more, 0.28 or more."""
    experts = torch.tensor([[0.5, 0.3, 0.19, 0.01], [0.1, 0.8, 0.04, 0.06]])
    base = torch.tensor([[0.2, 0.2, 0.4, 0.2]])
    merged = merge("strength", experts.log(), torch.tensor([0.5, 0.5]), base.log(), 2.0, 0.7).exp()
    assert (merged > 0).tolist() == [True, True, True, False]
    raw = torch.tensor([0.5 * 0.1 / 0.2, 0.3 * 0.8 / 0.2, 0.19 * 0.04 / 0.4])
    torch.testing.assert_close(merged[:3], raw / raw.sum())


def test_without_anchors_strength_is_a_mixture() -> None:
    log_probs, weights = random_experts(1, 4)
    assert torch.equal(merge("strength", log_probs, weights, None, 3.0, 0.5), log_probs[0])


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


@pytest.mark.parametrize("space", ["probability", "logit"])
def test_one_hot_weights_are_one_expert(space: Space) -> None:
    log_probs, _ = random_experts(4, 3)
    for expert in range(4):
        one_hot = torch.eye(4)[expert]
        torch.testing.assert_close(merge(space, log_probs, one_hot), log_probs[expert])


@pytest.mark.parametrize("space", ["probability", "logit"])
def test_equal_experts_are_that_expert(space: Space) -> None:
    log_probs, _ = random_experts(1, 5)
    _, weights = random_experts(3, 6)
    torch.testing.assert_close(merge(space, log_probs.expand(3, -1), weights), log_probs[0])


def test_spaces_differ() -> None:
    log_probs, weights = random_experts(3, 9)
    gap = merge_probabilities(log_probs, weights).exp() - merge("logit", log_probs, weights).exp()
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
    assert disagreements(apart, half)[0] == pytest.approx(math.log(2))
    assert disagreements(P[[0, 0]].log(), half)[0] == pytest.approx(0.0, abs=1e-6)
