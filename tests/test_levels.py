"""Activations as whole numbers, for products with weights in blocks."""

from __future__ import annotations

import numpy as np
import pytest

from mpd_core.models.level_loops import BLOCK, DIGITS, LARGEST, LEAST, Array, Levels, to_levels

BLOCKS = 3


def levels_of(x: Array) -> tuple[Levels, Array]:
    levels = np.full((len(x), BLOCKS, DIGITS, BLOCK), 99, np.int8)
    sizes = np.full((len(x), BLOCKS, 2), 99, np.float32)
    to_levels(x, levels, sizes)
    return levels, sizes


def activations(kind: str) -> Array:
    made = np.random.default_rng(0).standard_normal((4, BLOCKS * BLOCK)).astype(np.float32)
    if kind == "zeros":
        made[1] = 0.0
    elif kind == "of all sizes":
        made *= np.float32(10.0) ** np.arange(-48, 48, dtype=np.float32).clip(-37, 37)
    elif kind == "one number alone":
        made[:, 1:] = 0.0
    return made


@pytest.mark.parametrize("kind", ["random", "zeros", "of all sizes", "one number alone"])
def test_digits_are_the_number_to_half_a_step(kind: str) -> None:
    x = activations(kind)
    levels, sizes = levels_of(x)
    n = (levels.astype(np.int64) * np.array([128 * 128, 128, 1])[:, None]).sum(2)
    blocks = x.reshape(len(x), BLOCKS, BLOCK).astype(np.float64)
    step = np.maximum(np.abs(blocks).max(-1), float(LEAST)) / float(LARGEST)
    assert (levels >= -64).all()
    assert (levels <= 63).all()
    assert (np.abs(blocks - step[..., None] * n) <= 0.51 * step[..., None]).all()
    np.testing.assert_allclose(sizes[..., 0], step, rtol=1e-6)
    np.testing.assert_allclose(sizes[..., 1], sizes[..., 0] * n.sum(-1), rtol=1e-6)


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_makes_its_block_nan_and_no_other(broken: float) -> None:
    x = activations("random")
    whole = levels_of(x)
    x[2, BLOCK + 5] = broken
    levels, sizes = levels_of(x)
    assert np.isnan(sizes[2, 1]).all()
    others = np.ones((len(x), BLOCKS), bool)
    others[2, 1] = False
    assert np.array_equal(levels[others], whole[0][others])
    assert np.array_equal(sizes[others], whole[1][others])
