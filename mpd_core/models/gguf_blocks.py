"""The blocks of a GGUF's tensors, beside the numbers that transformers makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mpd_core.models.block_loops import HALF
from mpd_core.models.blocks import unpack
from mpd_core.models.level_loops import BLOCK

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType

Raw = NDArray[np.uint8]


KINDS = {"Q4_0": (2, HALF), "Q4_1": (4, HALF), "Q8_0": (2, BLOCK)}
"""Bytes of a block's scales, which come first, and of its codes; other kinds are not kept."""


def split(kind: str, raw: Raw) -> tuple[Tensor, Tensor]:
    """Codes and scales, as ``blocks`` has them, of a tensor's bytes [..., bytes of a row]."""
    head, size = KINDS[kind][0], sum(KINDS[kind])
    scales, codes = np.split(raw.reshape(*raw.shape[:-1], -1, size), [head], axis=-1)
    halves = np.ascontiguousarray(scales).view("<f2").astype(np.float16)
    d = torch.from_numpy(halves)
    every = torch.cat([d, -8 * d], dim=-1) if kind == "Q4_0" else d  # d (q - 8)
    return torch.from_numpy(np.ascontiguousarray(codes)), every


@cache
def is_decoded(kind: GGMLQuantizationType) -> bool:
    """Whether numbers can be made of a type of tensors."""
    from gguf.constants import GGML_QUANT_SIZES
    from gguf.quants import dequantize

    block = np.zeros((1, GGML_QUANT_SIZES[kind][1]), dtype=np.uint8)
    try:
        with np.errstate(all="ignore"):
            dequantize(block, kind)
    except NotImplementedError:
        return False
    return True


def kept_blocks(
    tensors: Mapping[str, Any], names: Mapping[str, str], state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Codes and scales of each matrix whose blocks are, to the bit, what was made of it.

    transformers lays rows out anew for some architectures (LLaMA's q and k): so are blocks.

    Args:
        tensors: of the file, by its own names.
        names: a model's parameters by the file's names.
        state: the parameters.

    Returns:
        By ``NAME.codes`` and ``NAME.scales``, as ``blocks`` has them.
    """
    found = {}
    for own, name in names.items():
        tensor, wanted = tensors.get(own), state.get(name)
        if tensor is None or wanted is None or tensor.tensor_type.name not in KINDS:
            continue
        codes, scales = split(tensor.tensor_type.name, np.asarray(tensor.data))
        order = _order(unpack(codes, scales), wanted)
        if order is not None:
            found[f"{name}.codes"] = codes[order].contiguous()
            found[f"{name}.scales"] = scales[order].contiguous()
    return found


def _order(rows: Tensor, wanted: Tensor) -> Tensor | None:
    """Which row each wanted row is; None if one is none of them, or they are no numbers."""
    if rows.shape != wanted.shape or not bool(rows.isfinite().all()):
        return None
    if torch.equal(rows, wanted):
        return torch.arange(len(rows))
    places = {row.tobytes(): place for place, row in enumerate((rows + 0.0).numpy())}
    found = [places.get(row.tobytes()) for row in (wanted + 0.0).numpy()]  # -0 is 0
    return None if None in found else torch.tensor(found)
