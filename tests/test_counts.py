"""Counts of rows that agree are found by measuring, in libraries where not all do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mpd_core.models.counts import Counts, measure

WEIGHT = torch.randn(40, 24, generator=torch.Generator().manual_seed(0))


def library(order: Callable[[int, int], int]) -> Callable[[Tensor], Tensor]:
    """A matrix library that sums a row from somewhere else on, by its place and their number."""

    def product(rows: Tensor) -> Tensor:
        out = []
        for place, row in enumerate(rows):
            turn = order(place, len(rows))
            terms = torch.roll(row * WEIGHT, turn, dims=1)
            out.append(sum(terms.unbind(1), torch.zeros(len(WEIGHT))))
        return torch.stack(out)

    return product


def like_avx2(place: int, count: int) -> int:
    """Six rows at a time; what is left over, one or two rows, is summed otherwise."""
    left = count % 6
    return left * 5 if left in (1, 2) and place >= count - left else 0


LIBRARIES: dict[str, tuple[Callable[[int, int], int], tuple[int, ...]]] = {
    "all agree": (lambda _place, _count: 0, (0, 1, 2, 3, 4, 5, 6, 7, 8, 9)),
    "one row is summed otherwise": (lambda _, n: 3 * (n == 1), (0, 2, 2, 3, 4, 5, 6, 7, 8, 9)),
    "what is left over is": (like_avx2, (0, 3, 3, 3, 4, 5, 6, 9, 9, 9)),
    "odd counts are": (lambda _, n: n % 2, (0, 1, 3, 3, 5, 5, 7, 7, 9, 9)),
}


@pytest.mark.parametrize(("order", "filled"), LIBRARIES.values(), ids=LIBRARIES)
def test_rows_have_the_same_bits_in_any_number(
    order: Callable[[int, int], int], filled: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpd_core.models.counts.MOST", 40)
    product = library(order)
    counts = measure(product, 24)
    assert counts.alike
    assert counts.filled[:10] == filled
    assert counts.plain == (filled == tuple(range(10)))
    rows = torch.randn(90, 24, generator=torch.Generator().manual_seed(1))
    whole = counts.compute(product, rows)
    assert whole.shape == (90, 40)
    torch.testing.assert_close(whole, rows @ WEIGHT.T, atol=1e-5, rtol=1e-5)
    for number in (*range(1, 20), 39, 40, 41, 81):
        assert torch.equal(counts.compute(product, rows[5 : 5 + number]), whole[5 : 5 + number])


def test_where_rows_never_agree_nothing_is_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpd_core.models.counts.MOST", 12)
    counts = measure(library(lambda place, _: place), 24)
    assert not counts.alike
    assert counts.plain


def test_no_rows_are_no_rows() -> None:
    counts = Counts((0, 3, 3, 3), alike=True)
    assert counts.compute(lambda rows: rows @ WEIGHT.T, torch.empty(0, 24)).shape == (0, 40)
