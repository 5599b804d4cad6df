"""The command ``python -m mpd_core bench``; light, so that ``--help`` does not wait for torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mpd_core.bench.options import MEASURES, BenchOptions
from mpd_core.options import DeviceOption, PackOption, listed, with_numbers
from mpd_core.packs import Precision


@with_numbers(BenchOptions)
def bench(
    only: Annotated[
        str | None, typer.Option(help=f"Measures, with commas: {', '.join(MEASURES)}.")
    ] = None,
    fp32_peers: Annotated[
        bool, typer.Option(help="On the CPU, time peers in plain fp32, too.")
    ] = True,
    quick: Annotated[bool, typer.Option("--quick", help="Tiny sizes: does it all run?")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for the plot of growth.")] = None,
    pack: PackOption = None,
    precision: Annotated[Precision | None, typer.Option(help="Override the pack's.")] = None,
    device: DeviceOption = None,
    **sizes: int,
) -> None:
    """Time the engine beside its peers: a table, then one line of JSON."""
    options = BenchOptions(
        only=listed(only) if only else MEASURES,
        pack=pack,
        precision=precision,
        device=device,
        fp32_peers=fp32_peers,
        out=out,
        **sizes,
    )
    from mpd_core.bench.run import run  # here: --help and bad input should not wait for torch

    run(options.quick() if quick else options)
