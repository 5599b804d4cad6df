"""``python -m mpd_core trace``: traces together, on the terminal, as CSV, or as a page."""

from __future__ import annotations

from collections.abc import Sequence
from json import dumps
from pathlib import Path
from typing import Annotated

import typer

from mpd_core.analysis.files import TraceError, read_trace
from mpd_core.analysis.measure import Analysis, StepGroup, analyse
from mpd_core.console import aligned

MAX_FILES = 1000
UNPRINTABLE = "\N{REPLACEMENT CHARACTER}"


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
    # Names from a file must not steer a terminal.
    shown = (
        c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in table(found)
    )
    print(dumps(found.to_dict()) if json else "".join(shown))


def table(found: Analysis) -> str:
    """The analysis for a terminal."""
    parts = [
        f"{found.traces} replies, {found.tokens} tokens, "
        f"{found.switches_per_100:.1f} switches of the leading expert per 100 tokens",
    ]
    for title, groups in (
        ("mean weight by position", found.positions),
        ("by kind of token", found.kinds),
        ("by preference", found.preferences),
    ):
        heading = (title, "tokens", "entropy", "divergence", *found.experts)
        parts.append(aligned([heading, *(_row(group, found.experts) for group in groups)]))
    rows = [("nats apart", "token", "after", "in", "what each expert would have said")]
    for place in found.apart:
        own = ", ".join(f"{expert} {text!r}" for expert, text in place.favourites.items())
        where = f"{place.trace}:{place.index + 1}"
        rows.append((f"{place.divergence:.3f}", repr(place.text), repr(place.before), where, own))
    return "\n\n".join(filter(None, (*parts, aligned(rows))))


def _row(group: StepGroup, experts: Sequence[str]) -> tuple[str, ...]:
    weights = (f"{group.weights[e]:.3f}" if e in group.weights else "-" for e in experts)
    numbers = (f"{group.entropy:.3f}", f"{group.divergence:.3f}")
    return (group.name, str(group.tokens), *numbers, *weights)


def _name(path: Path, files: list[Path]) -> str:
    """A file's name, or its whole path where another has the same name."""
    alone = sum(1 for other in files if other.name == path.name) == 1
    return path.name if alone else str(path)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise TraceError(f"{path}: cannot be written: {error.strerror or error}.") from error
