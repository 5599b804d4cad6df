"""The command ``python -m mpd_core bench``; light, so that ``--help`` does not wait for torch."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, get_args

import typer

from mpd_core.bench.options import MEASURES, BenchOptions
from mpd_core.options import DeviceOption, PackOption, listed
from mpd_core.packs import Precision

_Precision = Enum("_Precision", {p: p for p in get_args(Precision)}, type=str)  # type: ignore[misc]
_DEFAULT = BenchOptions()


def bench(
    only: Annotated[
        str | None, typer.Option(help=f"Measures, with commas: {', '.join(MEASURES)}.")
    ] = None,
    tokens: Annotated[int, typer.Option(help="New tokens a request.")] = _DEFAULT.tokens,
    requests: Annotated[
        int, typer.Option(help="Simultaneous requests of serve32.")
    ] = _DEFAULT.requests,
    repeats: Annotated[
        int, typer.Option(help="Timed rounds; medians are reported.")
    ] = _DEFAULT.repeats,
    largest: Annotated[int, typer.Option(help="Most requests of growth.")] = _DEFAULT.largest,
    widest: Annotated[int, typer.Option(help="Most experts of growth.")] = _DEFAULT.widest,
    fp32_peers: Annotated[
        bool, typer.Option(help="On the CPU, time peers in plain fp32, too.")
    ] = True,
    quick: Annotated[bool, typer.Option("--quick", help="Tiny sizes: does it all run?")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for the plot of growth.")] = None,
    seed: Annotated[int, typer.Option(help="Of adapters and preferences.")] = 0,
    pack: PackOption = None,
    precision: Annotated[_Precision | None, typer.Option(help="Override the pack's.")] = None,
    device: DeviceOption = None,
) -> None:
    """Time the engine beside its peers: a table, then one line of JSON."""
    options = BenchOptions(
        only=listed(only) if only else MEASURES,
        tokens=tokens,
        requests=requests,
        repeats=repeats,
        largest=largest,
        widest=widest,
        pack=pack,
        precision=precision.value if precision else None,
        device=device,
        fp32_peers=fp32_peers,
        out=out,
        seed=seed,
    )
    from mpd_core.bench.run import run  # here: --help and bad input should not wait for torch

    run(options.quick() if quick else options)
