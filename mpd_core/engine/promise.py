"""Whether a model's rows have the same bits alone and in a crowd: tried, not assumed."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mpd_core.models.blocks import BlockLinear
from mpd_core.models.layouts import base_of
from mpd_core.models.linear import Bf16Linear, PackedLinear
from mpd_core.models.rows import RowModel

ROWS, TOKENS = 7, 3
"""Seven rows are six and one more to AVX2's kernels."""
PLACE = 3
TO_THE_BIT, TO_ROUNDING = "equal to the bit", "equal up to rounding, about 1e-5"


def promise(lanes: Mapping[str, RowModel]) -> str:
    """What holds, alone and in a crowd, of the log-probabilities of requests that run on these."""
    return TO_THE_BIT if all(lane.alike for lane in lanes.values()) else TO_ROUNDING


@torch.inference_mode()
def try_out(lane: RowModel, *, reads_states: bool) -> None:
    """Note on a model whether one of several rows is what it is alone, read and decoded.

    On a GPU, and where steps are laid out at fixed shapes, nothing is promised or tried.

    Args:
        lane: with nothing in its cache yet.
        reads_states: of a trunk below, instead of tokens.
    """
    bases = map(base_of, lane.products())
    products = [base for base in bases if isinstance(base, PackedLinear | Bf16Linear | BlockLinear)]
    alike = all(product.counts.alike for product in products)
    if lane.device.type != "cpu" or lane.graphs is not None or not (products and alike):
        return
    random = torch.Generator().manual_seed(0)
    size = (min(ROWS, lane.cache.capacity), TOKENS)
    if reads_states:
        inputs = torch.randn(*size, lane.hidden_size, generator=random)
    else:
        inputs = torch.randint(lane.vocab_size, size, generator=random)
    row = min(PLACE, size[0] - 1)
    together = [part[row] for part in _run(lane, inputs)]
    alone = [part[0] for part in _run(lane, inputs[row : row + 1])]
    lane.alike = all(torch.equal(*pair) for pair in zip(together, alone, strict=True))
    lane.exact = lane.exact and lane.alike


def _run(lane: RowModel, inputs: Tensor) -> list[Tensor]:
    """States, and log-probabilities where there are any, of a prompt and of a token after it."""
    rows, tokens = inputs.shape[:2]
    places = torch.arange(tokens).expand(rows, -1)
    read = lane.forward(inputs[:, :-1].contiguous(), places[:, :-1], 0, [()] * rows)
    decoded = lane.forward(inputs[:, -1:].contiguous(), places[:, -1:], 0, [()] * rows)
    said = [lane.log_probs(decoded[:, -1], [()] * rows)] if lane.speaks else []
    return [read, decoded, *said]
