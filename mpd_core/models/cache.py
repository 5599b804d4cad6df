"""A key-value cache whose rows are independent sequences of different lengths.

transformers' own caches keep one length for all rows, or concatenate at every step. Here memory
is laid out once, [rows, kv_heads, length, head_dim] per layer, each row writes at its own
positions, and a forward pass sees a contiguous window of rows without copying them.
"""

from __future__ import annotations

import contextlib
import math
import mmap
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


@dataclass
class Window:
    """The part of the cache that the present forward pass reads and writes."""

    rows: slice | Tensor
    """Rows of the cache, one after the other, or, in compiled loops, each one's number."""
    positions: Tensor
    """Where each new token goes, [rows, T]."""
    length: int
    """Keys and values before this position are visible to the pass."""
    _places: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    @property
    def row_numbers(self) -> Tensor:
        """[rows]."""
        if isinstance(self.rows, Tensor):
            return self.rows
        return torch.arange(self.rows.start, self.rows.stop, device=self.positions.device)

    def places(self, heads: int, length: int) -> Tensor:
        """Where the new tokens go in a layer's [capacity x heads x length] vectors.

        Returns:
            [rows x heads x T]; computed for the first layer of a shape.
        """
        if (heads, length) not in self._places:
            row = self.row_numbers
            head = torch.arange(heads, device=self.positions.device)
            first = (row[:, None] * heads + head) * length
            self._places[heads, length] = (first[:, :, None] + self.positions[:, None]).flatten()
        return self._places[heads, length]


class RowCacheLayer(CacheLayerMixin):  # type: ignore[misc]
    """One layer's keys and values for up to ``capacity`` rows of up to ``length`` tokens."""

    is_sliding = False

    def __init__(self, owner: RowCache) -> None:
        super().__init__()
        self._owner = owner
        self._arrays: tuple[Any, Any] | None = None
        self._memory: list[mmap.mmap] = []

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor | None = None) -> None:
        values = key_states if value_states is None else value_states
        length = self._owner.length + self._owner.spare
        size = (self._owner.capacity, key_states.shape[1], length)
        self.keys = self._lazy_zeros((*size, key_states.shape[-1]), key_states)
        self.values = self._lazy_zeros((*size, values.shape[-1]), values)
        self.is_initialized = True

    def _lazy_zeros(self, size: tuple[int, ...], like: Tensor) -> Tensor:
        """Zeros, because a masked position still takes part as 0 * value, and 0 * NaN is NaN.

        On the CPU they come straight from the system, in small pages that cost no memory until they
        are written: torch writes its zeros at once, and numpy asks for huge pages.
        """
        if like.device.type != "cpu":
            return like.new_zeros(size)
        memory = mmap.mmap(-1, math.prod(size) * like.dtype.itemsize)
        if hasattr(mmap, "MADV_NOHUGEPAGE"):
            memory.madvise(mmap.MADV_NOHUGEPAGE)
        self._memory.append(memory)
        return torch.frombuffer(memory, dtype=like.dtype).view(size)

    def give_back(self, first: int, end: int) -> None:
        """Let the system have the whole pages of some rows; on a CPU of Linux. They are 0 then."""
        for memory in self._memory:
            each = len(memory) // self._owner.capacity
            begin = -(-first * each // mmap.PAGESIZE) * mmap.PAGESIZE
            length = end * each // mmap.PAGESIZE * mmap.PAGESIZE - begin
            if length > 0 and hasattr(mmap, "MADV_REMOVE"):
                with contextlib.suppress(OSError):  # a kernel that cannot
                    memory.madvise(mmap.MADV_REMOVE, begin, length)

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Write [rows, kv_heads, T, head_dim] at the window's positions; return what it sees."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        window = self._owner.window
        for cached, fresh in ((self.keys, key_states), (self.values, value_states)):
            width = fresh.shape[-1]
            places = window.places(*cached.shape[1:3])
            cached.view(-1, width).index_copy_(0, places, fresh.reshape(-1, width))
        seen = (window.rows, slice(None), slice(window.length))
        return self.keys[seen], self.values[seen]

    def arrays(self, key_states: Tensor) -> tuple[Any, Any]:
        """Keys and values of all rows as arrays, to be written in place; on a CPU.

        In case there are none yet, ``key_states`` are shaped as in ``update``.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states)
        if self._arrays is None:
            self._arrays = self.keys.numpy(), self.values.numpy()
        return self._arrays

    def get_seq_length(self) -> int:
        return 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:  # noqa: ARG002
        return self._owner.window.length, 0

    def get_max_length(self) -> int:
        return self._owner.length

    get_max_cache_shape = get_max_length  # its name in earlier transformers 5


class RowCache(Cache):  # type: ignore[misc]
    """The cache of a whole model; ``window`` is set before each forward pass."""

    def __init__(
        self, layers: int, capacity: int, length: int, budget: int, *, spare: int = 0
    ) -> None:
        """A cache that takes no memory yet.

        Args:
            layers: of the model.
            capacity: rows.
            length: tokens that one row can hold.
            budget: tokens that all rows together should hold at most.
            spare: positions beyond ``length``, to fill the last window and for idle rows to write.
        """
        self.capacity, self.length = capacity, length
        self.budget, self.spare = budget, spare
        self.window = Window(slice(0, 0), torch.zeros(0, 0, dtype=torch.long), 0)
        self._written = [0] * capacity
        super().__init__(layers=[RowCacheLayer(self) for _ in range(layers)])

    def note(self, first: int, rows: int, end: int) -> None:
        """Remember that so many rows are about to be written as far as ``end``.

        For attention that multiplies what a row may not see by zero: zero times NaN is NaN, and a
        row that was broken would break whoever has it next, unless it is wiped.
        """
        for row in range(first, first + rows):
            self._written[row] = max(self._written[row], end)

    def wipe(self, row: int, keep: int = 0) -> None:
        """Write zeros over what was written to a row, from position ``keep`` on."""
        stale = (row, slice(None), slice(keep, self._written[row]))
        if keep < self._written[row]:
            for layer in (layer for layer in self.layers if layer.is_initialized):
                layer.keys[stale] = layer.values[stale] = 0.0
            self._written[row] = keep

    def give_back(self, kept: Iterable[int]) -> None:
        """Let the system have the memory of all rows but these."""
        for before, after in pairwise([-1, *sorted(kept), self.capacity]):
            for layer in self.layers:
                layer.give_back(before + 1, after)

    def move(self, source: int, target: int, tokens: int) -> None:
        """Copy a row's first ``tokens`` positions over another row."""
        self.wipe(target, tokens)
        if self._written[source]:
            self._written[target] = tokens
        for layer in (layer for layer in self.layers if layer.is_initialized):
            layer.keys[target, :, :tokens] = layer.keys[source, :, :tokens]
            layer.values[target, :, :tokens] = layer.values[source, :, :tokens]
