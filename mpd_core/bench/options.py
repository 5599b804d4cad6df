"""The command ``bench`` and what a run of it is asked to do. No torch: ``--help`` must not wait."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import typer

from mpd_core.errors import MPDError, RequestError
from mpd_core.fields import check_numbers, number
from mpd_core.options import DeviceOption, PackOption, listed, with_numbers
from mpd_core.packs import Precision

MEASURES = (
    *("tax", "vs_mod", "vs_peft", "vs_nocache", "vs_llama"),
    *("serve32", "memory", "floor", "shared", "growth"),
)


class BenchError(MPDError):
    """A peer that computes something else than the engine, or a process that died."""


@dataclass(frozen=True)
class Target:
    """A bound that the project set itself before measuring."""

    bound: float
    at_least: bool = False

    def met(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.bound:g}"


_EVERYWHERE = {"memory.weights": Target(1.15), "floor.one": Target(0.4, at_least=True)}
CPU_TARGETS = _EVERYWHERE | {
    "tax.a": Target(1.4),
    "tax.b": Target(0.65),
    "vs_mod.loop": Target(6.0, at_least=True),
    "serve32.a": Target(0.2),
    "vs_llama.one": Target(1.15),
    "vs_llama.mpd": Target(1.5),
    "vs_llama.first_mpd": Target(2.5),
    "vs_llama.soups": Target(1.0),
    "shared.busy_one": Target(0.8, at_least=True),
    "shared.busy_sixteen": Target(0.8, at_least=True),
    "shared.one_core_one": Target(0.8, at_least=True),
    "shared.one_core_sixteen": Target(0.8, at_least=True),
}
GPU_TARGETS = _EVERYWHERE | {
    "tax.a": Target(1.25),
    "serve32.a": Target(0.1),
    "serve32.b": Target(0.79),
}


@dataclass(frozen=True)
class BenchOptions:
    """Sizes and choices of one run."""

    only: tuple[str, ...] = MEASURES
    tokens: int = number(48, 2, 512, "New tokens a request; nothing stops earlier.")
    requests: int = number(32, 1, 64, "Simultaneous requests of serve32.")
    repeats: int = number(5, 1, 100, "Timed rounds, after one that is not; medians are reported.")
    largest: int = number(64, 1, 64, "Most requests of growth.")
    widest: int = number(12, 1, 26, "Most experts of growth.")
    settle: int = number(12, 0, 60, "Seconds beside busy neighbours before anything is timed.")
    seed: int = number(0, 0, 2**31, "Of adapters and preferences.")
    pack: str | None = None
    precision: Precision | None = None
    device: str | None = None
    fp32_peers: bool = True
    """On the CPU, time peers in plain fp32 too, beside the engine's own precision."""

    def __post_init__(self) -> None:
        unknown = set(self.only) - set(MEASURES)
        if unknown or not self.only:
            raise RequestError(
                f"Unknown measure '{', '.join(sorted(unknown))}': use {', '.join(MEASURES)}."
            )
        check_numbers(self)

    def quick(self) -> BenchOptions:
        """The same with sizes that show that everything runs, and not how fast."""
        return replace(self, tokens=6, requests=4, repeats=1, largest=4, widest=3, settle=0)


@with_numbers(BenchOptions)
def bench(
    only: Annotated[
        str | None, typer.Option(help=f"Measures, with commas: {', '.join(MEASURES)}.")
    ] = None,
    fp32_peers: Annotated[
        bool, typer.Option(help="On the CPU, time peers in plain fp32, too.")
    ] = True,
    quick: Annotated[bool, typer.Option("--quick", help="Tiny sizes: does it all run?")] = False,
    pack: PackOption = None,
    precision: Annotated[Precision | None, typer.Option(help="Override the pack's.")] = None,
    device: DeviceOption = None,
    **sizes: int,
) -> None:
    """Time the engine beside its peers: a table, then one line of JSON."""
    chosen = listed(only) if only else MEASURES
    options = BenchOptions(
        chosen, **sizes, pack=pack, precision=precision, device=device, fp32_peers=fp32_peers
    )
    from mpd_core.bench.run import run  # here: --help and bad input should not wait for torch

    run(options.quick() if quick else options)
