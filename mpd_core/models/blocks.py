"""Weights in the blocks of 4 and 8 bits that they came in, as linears and as an embedding.

A matrix [out, in] is kept as it is in a GGUF: codes [out, in / 32, 16 or 32], of 4 bits two in a
byte, the lower half for the block's first 16 inputs; and scales [out, in / 32, 2 or 1], in fp16: d
and, of 4 bits, m. A weight is d q + m.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from mpd_core.models.block_loops import FOUR, PANEL, multiply
from mpd_core.models.counts import MOST, Counts
from mpd_core.models.level_loops import BLOCK, DIGITS, to_levels
from mpd_core.models.step_loops import embed

ANY = Counts(tuple(range(MOST + 1)), alike=True)
"""A row's sums are a loop of their own: any number of rows gives each of them the same bits."""


def unpack(codes: Tensor, scales: Tensor) -> Tensor:
    """The weights of blocks: codes [..., blocks, bytes] and scales [..., blocks, 2 or 1].

    Returns:
        In fp32, [..., blocks x 32].
    """
    d, *rest = (scale[..., None] for scale in scales.float().unbind(-1))
    if codes.shape[-1] == BLOCK:
        return (codes.view(torch.int8).float() * d).flatten(-2)
    halves = torch.cat([codes & 15, codes >> 4], dim=-1).float()
    return (halves * d + rest[0]).flatten(-2)


def rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weights [..., in] as blocks of 8 bits, as Q8_0 has them: codes and scales, see ``unpack``.

    Inputs that fill no block are followed by zeros.
    """
    scales = rounded_scales(weight)
    blocks = _in_blocks(weight)
    codes = (blocks / scales.where(scales > 0, 1.0)[..., None]).round().to(torch.int8)
    return codes.view(torch.uint8), scales.half()[..., None]


def rounded_scales(weight: Tensor) -> Tensor:
    """d of ``rounded`` before fp16 holds it: a block's largest number is 127 d."""
    return _in_blocks(weight).abs().amax(-1) / 127


def _in_blocks(weight: Tensor) -> Tensor:
    padded = F.pad(weight.detach().float(), (0, -weight.shape[-1] % BLOCK))
    return padded.reshape(*padded.shape[:-1], -1, BLOCK)


def rounded_weight(weight: Tensor) -> Tensor:
    """What is left of weights [..., in] in blocks of 8 bits, in fp32."""
    return unpack(*rounded(weight))[..., : weight.shape[-1]]


@dataclass(frozen=True)
class Panels:
    """A matrix as ``block_loops`` reads it: 32 outputs side by side, the last filled up with 0."""

    codes: Tensor
    """uint8, [panels, in / 32, 4 or 8, 32, 4]: of each output four bytes, one after the other."""
    scales: Tensor
    """fp16, [panels, in / 32, 2 or 1, 32]."""
    outputs: int

    @classmethod
    def of(cls, codes: Tensor, scales: Tensor) -> Panels:
        """From a matrix as files have it."""
        idle = -len(codes) % PANEL
        parts = (F.pad(part, (0, 0, 0, 0, 0, idle)) for part in (codes, scales))
        bytes_, halves = (part.view(-1, PANEL, *part.shape[1:]) for part in parts)
        words = bytes_.view(*bytes_.shape[:-1], -1, FOUR).permute(0, 2, 3, 1, 4)
        return cls(words.contiguous(), halves.permute(0, 2, 3, 1).contiguous(), len(codes))

    @cached_property
    def arrays(self) -> tuple[Any, Any]:
        """Codes and scales as loops read them."""
        return self.codes.numpy(), self.scales.view(torch.int16).numpy()

    @property
    def inputs(self) -> int:
        """Of each output."""
        return self.codes.shape[1] * BLOCK

    def rows(self, outputs: Tensor) -> Tensor:
        """The weights of some outputs, [...] to [..., in] in fp32."""
        panel, lane = outputs // PANEL, outputs % PANEL
        codes = self.codes[panel, :, :, lane].flatten(-2)
        return unpack(codes, self.scales[panel, :, :, lane])

    def part(self, first: int, outputs: int) -> Panels:
        """A matrix that lies in this one, from a whole panel on."""
        own = slice(first // PANEL, -(-(first + outputs) // PANEL))
        return Panels(self.codes[own], self.scales[own], outputs)


class BlockLinear(nn.Module):
    """Blocks of 4 or 8 bits, activations of 21; each row alone what it is in a crowd."""

    counts = ANY

    def __init__(self, panels: Panels, bias: Tensor | None = None) -> None:
        """Take a matrix, which other modules may hold, too, and a bias [out]."""
        super().__init__()
        self.in_features, self.out_features = panels.inputs, panels.outputs
        self.bias = None if bias is None else bias.detach().float()
        self.take(panels)

    def take(self, panels: Panels) -> None:
        """Have this matrix from now on."""
        self.panels, self.arrays = panels, panels.arrays

    @property
    def bare(self) -> bool:
        """Whether it is its panels and nothing more: no bias, no input or output filled up."""
        codes = self.arrays[0]
        full = (len(codes) * PANEL, codes.shape[1] * BLOCK)
        return self.bias is None and (self.out_features, self.in_features) == full

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] to [..., out], in fp32."""
        rows = self._rows(x)
        y = rows.new_empty(len(rows), len(self.arrays[0]) * PANEL)
        if len(rows):
            size = (len(rows), rows.shape[1] // BLOCK)
            levels = torch.empty(*size, DIGITS, BLOCK, dtype=torch.int8).numpy()
            sizes = torch.empty(*size, 2).numpy()
            to_levels(rows.numpy(), levels, sizes)
            multiply(*self.arrays, levels, sizes, y.numpy())
        if y.shape[1] != self.out_features:
            y = y[:, : self.out_features].contiguous()
        if self.bias is not None:
            y += self.bias
        return y.view(*x.shape[:-1], self.out_features)

    def _rows(self, x: Tensor) -> Tensor:
        """[..., in] as a matrix that ``multiply`` can read."""
        return x.detach().float().reshape(-1, self.in_features).contiguous()

    def weight_in_full(self) -> Tensor:
        """[out, in] in fp32, made anew."""
        return self.panels.rows(torch.arange(self.out_features))


class RoundedLinear(BlockLinear):
    """A weight of any source, rounded to blocks of 8 bits."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """Take a weight [out, in] and a bias [out]."""
        super().__init__(Panels.of(*rounded(weight)), bias)
        self._idle = self.in_features - weight.shape[1]
        self.in_features = weight.shape[1]

    def _rows(self, x: Tensor) -> Tensor:
        return F.pad(super()._rows(x), (0, self._idle)) if self._idle else super()._rows(x)

    def weight_in_full(self) -> Tensor:
        return super().weight_in_full()[:, : self.in_features]


class BlockEmbedding(nn.Module):
    """Rows of a matrix in blocks, which the output layer may share."""

    def __init__(self, panels: Panels, width: int | None = None) -> None:
        """Take a matrix, and D where its last block is filled up."""
        super().__init__()
        self.panels = panels
        self._width = width or panels.inputs

    def forward(self, tokens: Tensor) -> Tensor:
        """Ids [...] to [..., D], in fp32."""
        codes, scales = self.panels.arrays
        ids = tokens.contiguous().view(-1)
        out = torch.empty(len(ids), self.panels.inputs)
        embed(codes, scales, ids.numpy(), out.numpy())
        return out.view(*tokens.shape, -1)[..., : self._width]

    def weight_in_full(self) -> Tensor:
        """[V, D] in fp32, made anew."""
        return self.panels.rows(torch.arange(self.panels.outputs))[:, : self._width]


def weight_of_blocks(model: nn.Module, name: str) -> Tensor | None:
    """The parameter of that name where it is in blocks, in full; else None."""
    path, _, last = name.rpartition(".")
    module = dict(model.named_modules()).get(path) if last == "weight" else None
    return module.weight_in_full() if isinstance(module, BlockLinear | BlockEmbedding) else None


def join(linears: Sequence[BlockLinear]) -> BlockLinear | None:
    """Linears of one input as one, outputs in order; None if their blocks are of different kinds.

    They go on as parts of it: nothing is held twice.
    """
    if len(linears) == 1:
        return linears[0]  # others may hold its panels, too: an embedding those of its output layer
    own = [linear.panels for linear in linears]
    if len({panels.codes.shape[1:] for panels in own}) > 1:
        return None
    if any(panels.outputs % PANEL for panels in own[:-1]):
        return None  # the next one would not begin at a panel
    outputs = sum(panels.outputs for panels in own)
    codes, scales = (
        torch.cat(parts) for parts in zip(*((p.codes, p.scales) for p in own), strict=True)
    )
    joined = Panels(codes, scales, outputs)
    first = 0
    for linear, panels in zip(linears, own, strict=True):
        linear.take(joined.part(first, panels.outputs))
        first += panels.outputs
    biases = [linear.bias for linear in linears]
    if all(bias is None for bias in biases):
        return BlockLinear(joined)
    whole = (torch.zeros(p.outputs) if b is None else b for p, b in zip(own, biases, strict=True))
    return BlockLinear(joined, torch.cat(list(whole)))
