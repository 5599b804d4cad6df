"""What a run of the bench is asked to do, and what its figures are held against. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from mpd_core.errors import MPDError, RequestError
from mpd_core.packs import Precision

MEASURES = ("tax", "vs_mod", "vs_peft", "vs_nocache", "serve32", "memory", "floor", "growth")


class BenchError(MPDError):
    """A peer that computes something else than the engine, or a process that died."""


@dataclass(frozen=True)
class Target:
    """A bound that the project set itself before measuring."""

    bound: float
    at_least: bool

    def met(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.bound:g}"


CPU_TARGETS = {
    "tax.a": Target(1.4, at_least=False),
    "tax.b": Target(0.65, at_least=False),
    "vs_mod.loop": Target(6.0, at_least=True),
    "serve32.a": Target(0.2, at_least=False),
    "memory.weights": Target(1.15, at_least=False),
    "floor.one": Target(0.4, at_least=True),
}
GPU_TARGETS = {
    "tax.a": Target(1.25, at_least=False),
    "serve32.a": Target(0.1, at_least=False),
    "serve32.b": Target(0.79, at_least=False),
    "memory.weights": Target(1.15, at_least=False),
    "floor.one": Target(0.4, at_least=True),
}


@dataclass(frozen=True)
class BenchOptions:
    """Sizes and choices of one run."""

    only: tuple[str, ...] = MEASURES
    tokens: int = 48
    """New tokens a request, all of them generated: nothing stops earlier."""
    requests: int = 32
    """Simultaneous requests of ``serve32``."""
    repeats: int = 5
    """Timed rounds, after one that is not timed; medians are reported."""
    largest: int = 64
    """Most requests of ``growth``."""
    widest: int = 12
    """Most experts of ``growth``."""
    pack: str | None = None
    precision: Precision | None = None
    device: str | None = None
    fp32_peers: bool = True
    """On the CPU, time peers in plain fp32 too, beside the engine's own precision."""
    out: Path | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = set(self.only) - set(MEASURES)
        if unknown or not self.only:
            raise RequestError(
                f"Unknown measure '{', '.join(sorted(unknown))}': use {', '.join(MEASURES)}."
            )
        bounds = {"tokens": (2, 512), "requests": (1, 64), "repeats": (1, 100)}
        bounds |= {"largest": (1, 64), "widest": (1, 26)}
        for name, (low, high) in bounds.items():
            if not low <= getattr(self, name) <= high:
                raise RequestError(f"{name} must be from {low} to {high}.")

    def quick(self) -> BenchOptions:
        """The same with sizes that show that everything runs, and not how fast."""
        return replace(self, tokens=6, requests=4, repeats=1, largest=4, widest=3)
