"""The command ``bench`` and what a run of it is asked to do. No torch: ``--help`` must not wait."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import typer

from mpd_core.errors import RequestError
from mpd_core.fields import check_numbers, number
from mpd_core.options import DeviceOption, PackOption, listed, with_numbers
from mpd_core.packs import Precision

MEASURES = (
    *("tax", "vs_mod", "vs_peft", "vs_nocache", "vs_llama"),
    *("serve32", "memory", "floor", "shared", "growth"),
)
_EVERYWHERE = {"memory.weights": "<= 1.15", "floor.one": ">= 0.4"}
_SHARED = ("busy_one", "busy_sixteen", "one_core_one", "one_core_sixteen")
CPU_TARGETS = {
    **_EVERYWHERE,
    **{"tax.a": "<= 1.4", "tax.b": "<= 0.65", "vs_mod.loop": ">= 6", "serve32.a": "<= 0.2"},
    **{"vs_llama.one": "<= 1.15", "vs_llama.mpd": "<= 1.5"},
    **{"vs_llama.first_mpd": "<= 2.5", "vs_llama.soups": "<= 1"},
    **{f"shared.{name}": ">= 0.8" for name in _SHARED},
}
GPU_TARGETS = {**_EVERYWHERE, "tax.a": "<= 1.25", "serve32.a": "<= 0.1", "serve32.b": "<= 0.79"}
"""Bounds that the project set itself before measuring."""


@dataclass(frozen=True)
class BenchOptions:
    """Sizes and choices of one run."""

    only: tuple[str, ...] = MEASURES
    tokens: int = number(48, 2, 512, "New tokens a request; nothing stops earlier.")
    requests: int = number(32, 1, 64, "Simultaneous requests of serve32.")
    repeats: int = number(5, 1, 100, "Timed rounds, after one that is not; medians are reported.")
    largest: int = number(64, 1, 64, "Most requests of growth.")
    widest: int = number(12, 1, 26, "Most experts of growth.")
    pack: str | None = None
    precision: Precision | None = None
    device: str | None = None
    settle: int = 12
    """Seconds beside busy neighbours before anything is timed."""

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
    quick: Annotated[bool, typer.Option("--quick", help="Tiny sizes: does it all run?")] = False,
    pack: PackOption = None,
    precision: Annotated[Precision | None, typer.Option(help="Override the pack's.")] = None,
    device: DeviceOption = None,
    **sizes: int,
) -> None:
    """Time the engine beside its peers: a table, then one line of JSON."""
    chosen = listed(only) if only else MEASURES
    options = BenchOptions(chosen, **sizes, pack=pack, precision=precision, device=device)
    from mpd_core.bench.run import run  # here: --help and bad input should not wait for torch

    run(options.quick() if quick else options)
