"""What is fastest on this machine, measured when it is first asked for."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

ROWS, WIDTH, INNER = 256, 256, 768
"""A step small enough that even a CPU that emulates bf16 makes it in a fraction of a second."""
TRIES = 3


@cache
def trains_in_bf16() -> bool:
    """Whether products of a training step are faster in bf16, under autocast, than in fp32.

    A GPU from Ampere on multiplies bf16; a CPU is timed, forwards and backwards, on as many threads
    as there are: where it only emulates bf16, a step takes many times as long as in fp32.
    """
    if torch.cuda.is_available():
        return torch.cuda.get_device_capability()[0] >= 8
    with torch.inference_mode(mode=False), torch.enable_grad():
        return _bf16_is_faster()


def _bf16_is_faster() -> bool:
    random = torch.Generator().manual_seed(0)
    x, up, down = (
        torch.randn(size, generator=random)
        for size in ((ROWS, WIDTH), (INNER, WIDTH), (WIDTH, INNER))
    )
    slow = _seconds(lambda: _step(x, up, down, bf16=False))
    return _seconds(lambda: _step(x, up, down, bf16=True), give_up=slow) < slow


def _step(x: Tensor, up: Tensor, down: Tensor, *, bf16: bool) -> None:
    """Two layers and the gradient of their input, as a frozen base with adapters has it."""
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        y = F.linear(F.silu(F.linear(x, up)), down)
    torch.autograd.grad(y.float().sum(), x)


def _seconds(step: Callable[[], None], *, give_up: float = float("inf")) -> float:
    """The least of some tries after one to warm up; no more of them than it takes to know."""
    best = float("inf")
    for attempt in range(1 + TRIES):
        start = time.perf_counter()
        step()
        took = time.perf_counter() - start
        if took > 10 * give_up:
            return took
        best = min(best, took) if attempt else best
    return best
