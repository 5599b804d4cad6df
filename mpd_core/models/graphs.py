"""One decode step at fixed shapes, so that a GPU can replay it as one CUDA graph.

Launching the kernels of a step one by one costs more than running them while few rows are in
flight. A graph is launched once, but it is tied to shapes and addresses: inputs are copied into
buffers that stay where they are, rows and window are rounded up to buckets, and idle rows write
where nobody reads.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)

ROW_BUCKETS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
SMALLEST_WINDOW = 128
MOST_GRAPHS = 48
"""The least recently used go first: each holds its intermediate results."""

Compute = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""Inputs [B, 1] or [B, 1, D], positions [B, 1], gates [B, adapters] and window to states."""


@dataclass(eq=False)
class _Step:
    """Buffers of one bucket, and what replays it."""

    inputs: Tensor
    positions: Tensor
    gates: Tensor
    window: int
    graph: Any = None
    out: Tensor | None = None

    def run(self, compute: Compute) -> Tensor:
        return compute(self.inputs, self.positions, self.gates, self.window)


class StepGraphs:
    """Decode steps by bucket: captured when a bucket is first met, replayed from then on."""

    def __init__(self, compute: Compute, *, capacity: int, length: int, idle: int) -> None:
        """Nothing is captured yet.

        Args:
            compute: the step; the same kernels for the same shapes.
            capacity: rows that there can be.
            length: tokens that a row can hold.
            idle: position at which an idle row writes: beyond every window.
        """
        self._compute, self._capacity = compute, capacity
        self._length, self._idle = length, idle
        self._steps: OrderedDict[tuple[Any, ...], _Step] = OrderedDict()
        self._laid_out: tuple[int, ...] = ()
        self._captures = True
        self._pool: Any = None

    def __len__(self) -> int:
        return len(self._steps)

    def run(
        self, inputs: Tensor, positions: Tensor, gates: Tensor, laid_out: tuple[int, ...]
    ) -> Tensor:
        """One token of each row.

        Args:
            inputs: ids [R, 1] or states [R, 1, D].
            positions: on the host, [R, 1].
            gates: each row's weight of each adapter, scaled, [R, adapters].
            laid_out: the adapters that lie side by side; when they are others than before, weights
                have moved, and what was captured reads where they were.

        Returns:
            Hidden states, [R, 1, D]; valid until the next run.
        """
        if laid_out != self._laid_out:
            self._steps.clear()
            self._pool = None  # a pool that no graph uses any more is gone
            self._laid_out = laid_out
        rows, window = len(inputs), SMALLEST_WINDOW
        bucket = next((size for size in ROW_BUCKETS if size >= rows), self._capacity)
        while window <= int(positions.max()):
            window *= 2
        size = min(bucket, self._capacity), min(window, self._length)
        step = self._step(inputs, *size, gates)
        step.inputs[:rows].copy_(inputs, non_blocking=True)
        step.gates[:rows].copy_(gates, non_blocking=True)
        step.positions[:rows].copy_(positions, non_blocking=True)
        step.positions[rows:] = self._idle
        step.gates[rows:] = 0.0
        if step.graph is None:
            return step.run(self._compute)[:rows]
        step.graph.replay()
        assert step.out is not None
        return step.out[:rows]

    def _step(self, inputs: Tensor, rows: int, window: int, gates: Tensor) -> _Step:
        key = (rows, window, inputs.shape[1:], inputs.dtype, gates.shape[1])
        if key not in self._steps:
            self._steps[key] = self._make(inputs, rows, window, gates)
            if len(self._steps) > MOST_GRAPHS:
                self._steps.popitem(last=False)
        self._steps.move_to_end(key)
        return self._steps[key]

    def _make(self, inputs: Tensor, rows: int, window: int, gates: Tensor) -> _Step:
        step = _Step(
            inputs=inputs.new_zeros((rows, *inputs.shape[1:]), device=gates.device),
            positions=torch.full((rows, 1), self._idle, device=gates.device),
            gates=gates.new_zeros((rows, gates.shape[1])),
            window=window,
        )
        if self._captures and gates.device.type == "cuda":
            self._capture(step)
        return step

    def _capture(self, step: _Step) -> None:
        """Record the step; where a kernel cannot be recorded, steps run one by one from now on."""
        try:
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):  # first calls allocate and compile: not for the record
                for _ in range(2):
                    step.run(self._compute)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            # What one graph holds between its layers, others may overwrite: they never run at once,
            # and a result is used before the next run.
            with torch.cuda.graph(graph, pool=self._pool):
                step.out = step.run(self._compute)
            self._pool, step.graph = graph.pool(), graph
        except RuntimeError as error:
            log.warning("no CUDA graphs: %s", error)
            self._captures, step.graph, step.out = False, None, None
