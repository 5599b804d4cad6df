"""What a step computes beside its layers in loops: what torch computes, and each row alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from mpd_core.engine.runner import _in_loops
from mpd_core.method.weight_head import WeightHead, top_one
from mpd_core.models.blocks import BlockEmbedding, Panels
from mpd_core.models.llama import ROTARY_STEP, Rotary
from tests.test_blocks import blocks


@pytest.mark.parametrize("bits", [4, 8])
def test_vectors_out_of_blocks_are_the_unpacked_ones(bits: int) -> None:
    """To the bit, codes of both signs and ids of any shape among them."""
    panels = Panels.of(*blocks(bits, 100, 96))
    ids = torch.tensor([[0, 99, 31], [32, 7, 99]])
    found = BlockEmbedding(panels, 90)(ids.T)  # not in one piece
    assert torch.equal(found, panels.rows(ids.T)[..., :90])


def head() -> WeightHead:
    made, random = WeightHead(96, 6), torch.Generator().manual_seed(0)
    for parameter in made.parameters():
        parameter.data = torch.randn(parameter.shape, generator=random)
    return made


STATES = torch.randn(5, 96, generator=torch.Generator().manual_seed(1))
POLES = torch.tensor([[0, 2, 5], [1, 3, 4], [5, 2, 0], [4, 3, 1], [0, 1, 2]])


@pytest.mark.parametrize("top", [False, True])
def test_weights_in_loops_are_the_heads(top: bool) -> None:
    wanted = head().expert_weights(STATES, POLES).detach()
    found = _in_loops(head(), STATES, POLES, top=top)
    torch.testing.assert_close(found, top_one(wanted) if top else wanted, atol=1e-6, rtol=1e-5)
    for row in range(5):
        own = slice(row, row + 1)
        assert torch.equal(_in_loops(head(), STATES[own], POLES[own], top=top)[0], found[row])


def test_of_equal_weights_the_first_is_the_largest() -> None:
    untrained = WeightHead(96, 6)
    assert _in_loops(untrained, STATES, POLES, top=True).tolist() == [[1.0, 0.0, 0.0]] * 5


def rotary(kind: str) -> LlamaRotaryEmbedding:
    scaling = {"rope_theta": 10000.0, "rope_type": kind, "factor": 2.0}
    return LlamaRotaryEmbedding(
        LlamaConfig(
            hidden_size=64,
            num_attention_heads=4,
            max_position_embeddings=32,
            rope_parameters=scaling,
        )
    )


def turned(module: LlamaRotaryEmbedding, positions: Tensor) -> tuple[Tensor, Tensor]:
    cos, sin = module(torch.empty(0), positions)
    return cos, torch.cat([-sin[..., :8], sin[..., 8:]], dim=-1)


@pytest.mark.parametrize("kind", ["default", "linear", "dynamic"])
def test_kept_rotations_are_transformers(kind: str) -> None:
    """Of short texts, of a longer one, and of a short one again: frequencies may have changed."""
    ours, theirs = Rotary(rotary(kind)), rotary(kind)
    for last in (5, 2 * ROTARY_STEP + 3, 7):
        positions = torch.tensor([[0, last], [1, last - 2]])
        for found, wanted in zip(
            ours(torch.empty(0), positions), turned(theirs, positions), strict=True
        ):
            torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-6)
