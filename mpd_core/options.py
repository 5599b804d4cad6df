"""Options that several commands share, each said once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from mpd_core.fields import Number, numbers_of
from mpd_core.packs import Quantize

_Command = TypeVar("_Command", bound=Callable[..., None])

PackOption = Annotated[
    str | None, typer.Option("--pack", help="Name of a pack, or path of a pack.toml.")
]
QuantizeOption = Annotated[
    Quantize | None, typer.Option("--quantize", help="Override the pack's precision.")
]
DeviceOption = Annotated[str | None, typer.Option("--device", help="cpu or cuda.")]
OutOption = Annotated[
    Path | None, typer.Option("--out", help="Folder of results; default: under runs/NAME.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def listed(names: str | None) -> tuple[str, ...]:
    """Names given with commas."""
    return tuple(part.strip() for part in (names or "").split(",") if part.strip())


def with_numbers(*owners: type, pack_decides: bool = False) -> Callable[[_Command], _Command]:
    """Give a command one option for each number of these dataclasses, which it takes as ``**``.

    Args:
        owners: dataclasses that declare numbers, see ``mpd_core.fields``.
        pack_decides: what is not given is None, and the pack's own; otherwise the default.
    """

    return _taking([_option(n, pack_decides) for o in owners for n in numbers_of(o).values()])


def with_options_of(other: Callable[..., object]) -> Callable[[_Command], _Command]:
    """Give a command all options of a function, to which it hands on what it takes as ``**``."""
    return _taking(inspect.signature(other, eval_str=True).parameters.values())


def _taking(added: Iterable[inspect.Parameter]) -> Callable[[_Command], _Command]:
    parameters = list(added)

    def decorate(command: _Command) -> _Command:
        signature = inspect.signature(command, eval_str=True)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        changed: Any = command  # typer asks for both
        changed.__signature__ = signature.replace(parameters=[*own, *parameters])
        changed.__annotations__ = {p.name: p.annotation for p in (*own, *parameters)}
        return command

    return decorate


def _option(number: Number, pack_decides: bool) -> inspect.Parameter:
    kind, shown = int if number.whole else float, typer.Option(help=number.help)
    return inspect.Parameter(
        number.name,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        default=None if pack_decides else number.default,
        annotation=Annotated[kind | None if pack_decides else kind, shown],
    )
