"""Stacked LoRA: every row of a batch with its own adapter, over a linear that stays a black box.

On a GPU the adapters of a linear lie side by side, ``y = base(x) + ((x @ A) * mask) @ B``: A
[in, R], B [R, out], R the sum of their ranks. The mask [rows, 1, R] holds a row's weight, scaled,
at the columns of its adapters and 0 elsewhere, so a row without an adapter is exactly the base. On
a CPU each row reads its own adapters and no others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from mpd_core.errors import PackError, about
from mpd_core.models.adapter_config import MERGE
from mpd_core.models.adapters import LoraAdapter, mean_of_factors
from mpd_core.models.layouts import Routing, RowLoopLora, SideBySideLora, StackedLora

Mix = tuple[tuple[str, float], ...]
"""A row's adapters and their weights: () is the bare base, (("a", 1.0),) one adapter, and n of
weight 1/n are the mean of the products B A, a Personalized Soup without merging anything. A name
such as "a+b" is the adapter whose A and B are the means of theirs, made when first asked for."""


class LoraStack:
    """All adapters of a model; tells every wrapped linear which ones each row of the batch uses.

    Only adapters that live rows use take part in a pass: side-by-side matrices are laid out anew
    when that set changes, which is when a request joins or leaves.
    """

    def __init__(
        self,
        adapters: Sequence[LoraAdapter],
        model: nn.Module,
        like: Tensor,
        *,
        packed: torch.dtype | None = None,
        loops: bool = False,
    ) -> None:
        """Check the adapters against a model.

        Args:
            adapters: any ranks, any target modules.
            model: has every targeted linear under its full name, before anything is wrapped.
            like: a tensor with the compute dtype and the device.
            packed: hold A and B in fp16 or bf16 (CPU only).
            loops: compute each row with its own adapters, in compiled loops (CPU only).

        Raises:
            PackError: as ``LoraAdapter.check`` and ``LoraAdapter.check_held``.
        """
        for adapter in adapters:
            with about(f"adapter '{adapter.name}'"):
                adapter.check(model)
                adapter.check_held(packed or like.dtype, like.dtype)
        self.packed = packed
        self.loops = loops
        self._adapters: list[LoraAdapter] = []
        self._factors: list[dict[str, tuple[Tensor, Tensor]]] = []
        for adapter in adapters:
            self._hold(adapter)
        self._index = {adapter.name: k for k, adapter in enumerate(adapters)}
        self.like = like.new_empty(0)  # not the tensor itself, which may be large
        self._wrapped: list[StackedLora] = []
        self._covered: set[str] = set()
        self._asked = 0, tuple[Mix, ...](), self._weights_of(())
        self.routing = Routing()

    def adapter_weights(self, rows: Sequence[Mix]) -> Tensor:
        """Each row's weight of each adapter, scaled, [rows, adapters]; lays out what is needed."""
        used = self._indices(rows)
        if not used <= set(self.routing.in_use):
            self.routing.in_use = tuple(sorted(used.union(self.routing.in_use)))
        self.routing.active = bool(used)
        asked = len(self._adapters), tuple(rows)
        if asked != self._asked[:2]:  # steps of the same rows follow each other
            self._asked = *asked, self._weights_of(rows)
        return self._asked[2]

    def _weights_of(self, rows: Sequence[Mix]) -> Tensor:
        weights = [[0.0] * len(self._adapters) for _ in rows]
        for row, mix in zip(weights, rows, strict=True):
            for name, weight in mix:
                index = self._index[name]
                row[index] = weight * self._adapters[index].scaling
        return self.like.new_tensor(weights).view(len(rows), len(self._adapters))

    def keep(self, rows: Sequence[Mix]) -> None:
        """Let go of adapters that none of these rows uses; with no rows, nothing is gained."""
        if rows:
            self.routing.in_use = tuple(sorted(self._indices(rows)))

    @property
    def count(self) -> int:
        """Adapters that there are; means of others are made when they are asked for."""
        return len(self._adapters)

    @property
    def names_in_use(self) -> tuple[str, ...]:
        """Adapters that are laid out, by name."""
        in_use = self.routing.in_use  # before the names, which only grow: whoever asks is no worker
        names = {index: name for name, index in self._index.copy().items()}
        return tuple(names[index] for index in in_use)

    def _indices(self, rows: Sequence[Mix]) -> set[int]:
        return {self._find(name) for mix in rows for name, _ in mix}

    def _find(self, name: str) -> int:
        if name not in self._index:
            self._index[name] = len(self._adapters)
            parts = [self._adapters[self._index[n]] for n in name.split("+")]
            self._hold(mean_of_factors(parts))
            for stacked in self._wrapped:
                stacked.take(self._index[name], self._factors[-1])
        return self._index[name]

    def _hold(self, adapter: LoraAdapter) -> None:
        adapter = adapter.to(self.packed) if self.packed else adapter
        self._factors.append(dict(adapter.factors))
        self._adapters.append(replace(adapter, factors=self._factors[-1]))

    def wrap(self, linear: nn.Module, parts: Sequence[tuple[str, int]]) -> nn.Module:
        """Put the adapters of some linears, fused into one, on top of it.

        Args:
            linear: whatever computes them, outputs in order.
            parts: full name and output width of each.
        """
        self._covered.update(name for name, _ in parts)
        stacked: StackedLora = RowLoopLora(linear, self.routing, parts)
        if not self.loops:
            stacked = SideBySideLora(linear, self.routing, parts, self.packed)
        for index, held in enumerate(self._factors):
            stacked.take(index, held)
        if stacked.empty:
            return linear
        self._wrapped.append(stacked)
        return stacked

    def check_wrapped(self) -> None:
        """Raises ``PackError`` if an adapter has a module that nothing was put on top of."""
        for adapter in self._adapters:
            for module in sorted(set(adapter.factors) - self._covered):
                raise PackError(
                    f"adapter '{adapter.name}': this decoder does not compute '{module}' as a "
                    f"linear that LoRA can be put on: {MERGE}."
                )
