"""Options that several commands share, each said once."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, get_args

import typer

from mpd_core.packs import Quantize

QuantizeChoice = Enum("QuantizeChoice", {q: q for q in get_args(Quantize)}, type=str)  # type: ignore[misc]

PackOption = Annotated[
    str | None, typer.Option("--pack", help="Name of a pack, or path of a pack.toml.")
]
QuantizeOption = Annotated[
    QuantizeChoice | None, typer.Option("--quantize", help="Override the pack's precision.")
]
DeviceOption = Annotated[str | None, typer.Option("--device", help="cpu or cuda.")]
OutOption = Annotated[
    Path | None, typer.Option("--out", help="Folder of results; default: under runs/NAME.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def quantize_of(choice: QuantizeChoice | None) -> Quantize | None:
    """The plain value; None where nothing was chosen."""
    chosen: Quantize | None = choice.value if choice else None
    return chosen


def listed(names: str | None) -> tuple[str, ...]:
    """Names given with commas."""
    return tuple(part.strip() for part in (names or "").split(",") if part.strip())
