"""Attention on the CPU: what torch's computes, and the same to the bit in any company."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mpd_core.models.operators import as_bias, attention

LENGTH, ROWS = 640, 24
SHAPES = {"one head each": (4, 4, 16), "three share": (9, 3, 64), "four share": (8, 2, 32)}


def look_back(positions: Tensor, window: int) -> Tensor:
    """Every token sees itself and what is before it: [rows, 1, T, window]."""
    return as_bias(torch.arange(window) <= positions[:, None, :, None], torch.float32)


@pytest.fixture(scope="module", params=SHAPES.values(), ids=SHAPES)
def cached(request: pytest.FixtureRequest) -> tuple[Tensor, Tensor, Tensor]:
    """q [rows, heads, LENGTH, d], keys and values [rows, kv_heads, LENGTH, d]."""
    heads, shared, width = request.param
    torch.manual_seed(0)
    sizes = ((ROWS, heads), (ROWS, shared), (ROWS, shared))
    q, keys, values = (torch.randn(*size, LENGTH, width) for size in sizes)
    return q, keys, values


@pytest.mark.parametrize("start", [0, 7, 600])
@pytest.mark.parametrize("length", [1, 2, 33, 40])
def test_it_is_torchs_attention(
    cached: tuple[Tensor, Tensor, Tensor], start: int, length: int
) -> None:
    q, keys, values = (part[:3] for part in cached)
    positions = torch.arange(start, start + length).expand(3, -1)
    q, bias = q[:, :, start : start + length], look_back(positions, LENGTH)
    expected = F.scaled_dot_product_attention(q, keys, values, attn_mask=bias, enable_gqa=True)
    torch.testing.assert_close(attention(q, keys, values, bias), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("length", [1, 40])
def test_values_may_be_narrower_than_keys(length: int) -> None:
    """As in DeepSeek's models."""
    torch.manual_seed(1)
    q, keys, values = (torch.randn(2, 4, n, d) for n, d in ((length, 24), (64, 24), (64, 12)))
    bias = look_back(torch.arange(20, 20 + length).expand(2, -1), 64)
    expected = F.scaled_dot_product_attention(q, keys, values, attn_mask=bias)
    torch.testing.assert_close(attention(q, keys, values, bias), expected, atol=1e-5, rtol=1e-5)


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_one_token_is_decoded_alike_beside_any_rows(
    cached: tuple[Tensor, Tensor, Tensor], data: st.DataObject
) -> None:
    q, keys, values = cached
    last = data.draw(st.integers(0, LENGTH - 1))
    rows = data.draw(st.integers(1, ROWS))
    first = data.draw(st.integers(0, ROWS - rows))
    window = data.draw(st.sampled_from(range((last // 64 + 1) * 64, LENGTH + 1, 64)))

    def decode(part: slice, window: int) -> Tensor:
        one = q[part, :, last : last + 1]
        bias = look_back(torch.full((len(one), 1), last), window)
        return attention(one, keys[part, :, :window], values[part, :, :window], bias)

    crowd = decode(slice(first, first + rows), window)
    for row in {0, rows // 2, rows - 1}:
        alone = decode(slice(first + row, first + row + 1), (last // 64 + 1) * 64)
        assert torch.equal(crowd[row], alone[0])


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_a_prompt_is_read_alike_in_any_pieces(
    cached: tuple[Tensor, Tensor, Tensor], data: st.DataObject
) -> None:
    """However it is cut, whatever rows are read with it, however far the window reaches."""
    q, keys, values = cached
    end = data.draw(st.integers(4, 300))
    rows = data.draw(st.integers(1, 4))
    inner = data.draw(st.sets(st.integers(2, end - 2), max_size=4))
    cuts = [0, *(cut for cut in sorted(inner) if cut - 1 not in inner), end]

    def read(rows: int, cuts: list[int], window: int) -> Tensor:
        pieces = []
        for start, stop in itertools.pairwise(cuts):
            positions = torch.arange(start, stop).expand(rows, -1)
            seen = max(window, ((stop - 1) // 64 + 1) * 64)
            part = (q[:rows, :, start:stop], keys[:rows, :, :seen], values[:rows, :, :seen])
            pieces.append(attention(*part, look_back(positions, seen)))
        return torch.cat(pieces, dim=2)

    pieces = read(rows, cuts, data.draw(st.sampled_from([64, 320, LENGTH])))
    assert torch.equal(pieces[0], read(1, [0, end], 64)[0])
