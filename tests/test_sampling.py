"""Choosing a token, by numbers that can be checked by hand."""

from __future__ import annotations

import pytest
import torch

from mpd_core.request import Sampling
from mpd_core.sampling import DRY_BASE, choose, draw, nucleus, penalise, repeats

P = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]])


def test_penalty_lowers_only_what_was_said() -> None:
    log_probs = torch.tensor([[-1.0, -2.0, -3.0]] * 2)
    samplings = [Sampling(repetition_penalty=1.5), Sampling()]
    scores = penalise(log_probs, samplings, [[1, 1], [0]])
    assert scores.tolist() == [[-1.0, -3.0, -3.0], [-1.0, -2.0, -3.0]]
    assert penalise(log_probs, samplings[::-1], [[1], []]) is log_probs


def test_repeats_name_what_would_go_on() -> None:
    """After 7 8 9 ... 8 9 comes 5 as once before; after ... 9 came 6 too, but a shorter way."""
    assert repeats([7, 8, 9, 5, 9, 6, 8, 9]) == {5: 2, 6: 1}
    assert repeats([1, 2, 3]) == {}
    assert repeats([]) == {}
    assert repeats([4, 4, 4]) == {4: 2}


def test_a_longer_repeat_costs_more() -> None:
    """Two tokens that come again cost the multiplier, each further one 1.75 times as much."""
    log_probs = torch.full((1, 10), -1.0)
    costs = []
    for reply in ([1, 2, 3, 2], [1, 2, 3, 1, 2], [0, 1, 2, 3, 0, 1, 2]):
        scores = penalise(log_probs, [Sampling(dry_multiplier=0.8)], [reply])
        assert (scores == -1.0).sum() >= 9
        costs.append(-1.0 - float(scores[0, 3]))
    assert costs == pytest.approx([0.0, 0.8, 0.8 * DRY_BASE])


def test_a_loop_ends() -> None:
    """Greedy on a distribution that always prefers to go round: with DRY it does not go on."""

    def say(multiplier: float) -> list[int]:
        tokens: list[int] = [0]
        for _ in range(60):
            log_probs = torch.full((1, 12), -6.0)
            log_probs[0, (tokens[-1] + 1) % 4] = -0.1
            tokens += choose(log_probs, [Sampling(dry_multiplier=multiplier)], [tokens], [0.0])
        return [int(token) for token in tokens]

    assert say(0.0) == [k % 4 for k in range(61)]
    assert set(say(0.8)) - {0, 1, 2, 3}


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


@pytest.mark.parametrize("temperature", [1e-2, 1e-300, 2.3e-308, 1e-310, 5e-324])
def test_the_least_temperatures_take_the_likeliest(temperature: float) -> None:
    """Down to the least number there is; of two that are as likely, each half of the time."""
    scores = torch.tensor([[-3.0, -1.0, -2.0, -1e-30], [-0.5, -2.0, -0.5, -torch.inf]])
    sampling = Sampling(temperature=temperature)
    for number, second in ((0.001, 0), (0.01, 0), (0.49, 0), (0.51, 2), (0.999, 2)):
        chosen = choose(scores, [sampling] * 2, [[]] * 2, [number] * 2)
        assert chosen.tolist() == [3, second]


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
