"""The paper's method by numbers that can be checked by hand; see also test_merging.py."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mpd_core.method import decode
from mpd_core.method.soup import mean_of_changes, mean_of_factors
from mpd_core.method.static import method_name, uniform, weights_in
from mpd_core.method.weight_head import WeightHead

CALM, WILD = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.1, 0.1, 0.8])


def greedy(merged: Tensor, _: list[int]) -> int:
    return int(merged.argmax())


def test_mpd_by_hand() -> None:
    """A PCM that trusts the calm expert until token 0 has been said, and then the wild one.

    Its state is (1, 0), then (0, 1); the head turns it into scores (ln 3, 0), then (0, ln 3):
    weights 3/4 and 1/4, then the other way round. So token 0 has (3 * 0.7 + 0.1) / 4, then token 2
    (0.1 + 3 * 0.8) / 4, which ends the reply.
    """
    head = WeightHead(2, 4)
    with torch.no_grad():
        head.linear.weight[1] = torch.tensor([math.log(3), 0.0])
        head.linear.weight[3] = torch.tensor([0.0, math.log(3)])
    seen: list[list[int]] = []

    def backbone(ids: list[int]) -> Tensor:
        seen.append(ids)
        return torch.eye(2)[int(0 in ids)]

    experts = [decode.expert(lambda _, p=p: p.log() + 5, [7]) for p in (CALM, WILD)]
    weigh = decode.pcm(backbone, head, [7, 8], (1, 3))
    with torch.no_grad():
        steps = list(decode.decode(experts, weigh, greedy, end={2}, max_new_tokens=9))
    assert [step.token for step in steps] == [0, 2]
    assert seen == [[7, 8], [7, 8, 0]]
    assert steps[0].weights.tolist() == pytest.approx([0.75, 0.25])
    assert steps[1].weights.tolist() == pytest.approx([0.25, 0.75])
    assert steps[0].merged[0].exp() == pytest.approx((3 * 0.7 + 0.1) / 4)
    assert steps[1].merged[2].exp() == pytest.approx((0.1 + 3 * 0.8) / 4)


def test_a_reply_ends_after_so_many_tokens() -> None:
    experts = [decode.expert(lambda _: CALM.log(), [7])]
    steps = decode.decode(experts, lambda _: torch.ones(1), greedy, end=(), max_new_tokens=3)
    assert [step.token for step in steps] == [0, 0, 0]


def test_weights_of_experts_are_those_of_their_poles() -> None:
    """In the order of the experts, for several tokens, and nothing for who is not there."""
    torch.manual_seed(0)
    head = WeightHead(5, 4)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    hidden = torch.randn(2, 3, 5)
    found = head.expert_weights(hidden, torch.tensor([[2, 0, 3], [1, -1, -1]]))
    every = head(hidden[0], torch.tensor([True, False, True, True]))
    assert torch.equal(found[0], every[:, [2, 0, 3]])
    assert found[1].tolist() == [[1.0, 0.0, 0.0]] * 3
    assert torch.equal(
        head.expert_weights(hidden[:1, 0], torch.tensor([[2, 0, 3]]))[0], found[0, 0]
    )


def test_the_two_soups_by_hand() -> None:
    """Rank 1: changes 2 * 3 and 4 * 5 have the mean 13; the factors' means 3 and 4 make 12."""
    one, two = (torch.tensor([[[a]], [[b]]]) for a, b in ((2.0, 3.0), (4.0, 5.0)))
    assert mean_of_changes([(1.0, *one), (1.0, *two)]).item() == 13
    assert mean_of_changes([(0.5, *one), (1.0, *two)]).item() == 11.5
    a, b = mean_of_factors([(one[0], one[1]), (two[0], two[1])])
    assert (b @ a).item() == 12


def test_constant_weights_have_a_name() -> None:
    assert weights_in(method_name((0.25, 0.75))) == (0.25, 0.75)
    assert weights_in("static:a,b") == ()
    assert weights_in("static") is None
    assert sum(uniform(7)) == pytest.approx(1)
