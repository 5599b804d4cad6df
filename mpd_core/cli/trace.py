"""``python -m mpd_core trace``: traces together, on the terminal, as CSV, or as a page."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import Annotated

import typer

from mpd_core.analysis.files import TraceError, read_trace
from mpd_core.analysis.measure import Analysis, StepGroup, analyse

MAX_FILES = 1000
_WIDTH = 13


def trace(
    files: Annotated[list[Path], typer.Argument(help="Traces: generate --json, or the page's.")],
    csv: Annotated[Path | None, typer.Option(help="Write all numbers to this file.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with plots, for offline.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Analyse traces together: weights by position, kind of word and preference."""
    if len(files) > MAX_FILES:
        raise TraceError(f"{len(files)} files; at most {MAX_FILES} are analysed together.")
    found = analyse({_name(path, files): read_trace(path) for path in files})
    if csv:
        _write(csv, found.to_csv())
    if html:
        from mpd_core.ui.standalone import report_page  # here: --help should not wait for Plotly

        _write(html, report_page(found))
    print(dumps(found.to_dict()) if json else _printable(table(found)))


def table(found: Analysis) -> str:
    """The analysis for a terminal."""
    lines = [
        f"{found.traces} replies, {found.tokens} tokens, "
        f"{found.switches_per_100:.1f} switches of the leading expert per 100 tokens",
    ]
    for title, rows in (
        ("Mean weight by position", found.positions),
        ("by kind of token", found.kinds),
        ("by preference", found.preferences),
    ):
        lines += ["", title, *_rows(rows, found.experts)]
    lines += ["", "Where experts lie furthest apart (nats, token, what each would have said)"]
    for place in found.apart:
        own = ", ".join(f"{expert} {text!r}" for expert, text in place.favourites.items())
        where = f"{place.trace}:{place.index + 1}"
        lines.append(
            f"{place.divergence:6.3f}  {place.text!r} after {place.before!r} ({where}) {own}"
        )
    return "\n".join(lines)


def _rows(rows: tuple[StepGroup, ...], experts: tuple[str, ...]) -> list[str]:
    names = ["", "tokens", "entropy", "divergence", *(e[: _WIDTH - 1] for e in experts)]
    lines = ["".join(f"{name:>{_WIDTH}}" for name in names)]
    for row in rows:
        cells = [
            row.name, str(row.tokens), f"{row.entropy:.3f}", f"{row.divergence:.3f}",
            *(f"{row.weights[e]:.3f}" if e in row.weights else "-" for e in experts),
        ]  # fmt: skip
        lines.append("".join(f"{cell:>{_WIDTH}}" for cell in cells))
    return lines


def _printable(text: str) -> str:
    """Names from a file must not steer a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def _name(path: Path, files: list[Path]) -> str:
    """A file's name, or its whole path where another has the same name."""
    alone = sum(1 for other in files if other.name == path.name) == 1
    return path.name if alone else str(path)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise TraceError(f"{path}: cannot be written: {error.strerror or error}.") from error
