"""Rotary position embeddings of positions that come again and again."""

from __future__ import annotations

import torch
from torch import Tensor, nn

STEP = 256
"""Positions that are computed at a time."""
ANEW = ("dynamic", "longrope")
"""Kinds whose frequencies depend on how long the text is."""


class Rotary:
    """cos and sin as attention takes them, the first half of sin negated; kept where they are
    the same in every pass."""

    def __init__(self, module: nn.Module) -> None:
        """``module``: transformers', called with something of the type wanted and positions."""
        self._module = module
        kind = getattr(module, "rope_type", None)
        self._kept = isinstance(kind, str) and not any(name in kind for name in ANEW)
        self._cos = self._sin = torch.empty(0)

    def __call__(self, like: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin [rows, T, d] of positions [rows, T]."""
        if not self._kept or like.device.type != "cpu":
            return self._compute(like, positions)
        if int(positions.max()) >= len(self._cos):
            self._grow(like, int(positions.max()))
        return self._cos[positions], self._sin[positions]

    def _grow(self, like: Tensor, last: int) -> None:
        """What is there stays what it is."""
        held = len(self._cos)
        every = torch.arange(held, (last // STEP + 1) * STEP)
        fresh = [part[0] for part in self._compute(like, every[None])]
        if held:
            fresh = [torch.cat(p) for p in zip((self._cos, self._sin), fresh, strict=True)]
        self._cos, self._sin = fresh

    def _compute(self, like: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = self._module(like, positions)
        sin[..., : sin.shape[-1] // 2].neg_()
        return cos, sin
