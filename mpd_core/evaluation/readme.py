"""README's results, rebuilt from stored runs: no figure without a run behind it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mpd_core.errors import MPDError
from mpd_core.evaluation.cells import line
from mpd_core.evaluation.efficiency import JSON as EFFICIENCY
from mpd_core.evaluation.efficiency import markdown as efficiency_text
from mpd_core.evaluation.full import PREFIX
from mpd_core.evaluation.identified import judges_of
from mpd_core.evaluation.jobs import content_of
from mpd_core.evaluation.meetings import MAIN
from mpd_core.evaluation.paper_text import paper_tables
from mpd_core.evaluation.record import FILE
from mpd_core.evaluation.report import JSON
from mpd_core.evaluation.short_text import FORCED, IDENTIFIED, NAMES, heat, identified
from mpd_core.packs import Pack

BEGIN, END = "<!-- results: written by make report -->", "<!-- end of results -->"
STORED = "evaluation"
"""Folder beside ``pack.toml`` with one report a set of prompts."""


def runs_of(root: Path) -> list[Path]:
    """Folders of full runs."""
    return sorted(file.parent for file in root.glob(f"{PREFIX}*/{FILE}"))


def measured(pack: Pack, root: Path) -> dict[str, Any] | None:
    """Figures of efficiency: the newest of this machine, which are stored, or those stored."""
    target, found = pack.folder / f"{STORED}-{EFFICIENCY}", root / "efficiency" / EFFICIENCY
    if found.is_file():
        target.write_bytes(found.read_bytes())
    if not target.is_file():
        return None
    read: dict[str, Any] = json.loads(target.read_text(encoding="utf-8"))
    return read


def keep(pack: Pack, folder: Path) -> Path:
    """Put a run's report beside the pack, where it stays when the run is deleted."""
    target = pack.folder / STORED / f"{folder.name.removeprefix(PREFIX)}.json"
    target.parent.mkdir(exist_ok=True)
    found = json.loads((folder / JSON).read_text(encoding="utf-8"))
    target.write_text(json.dumps(found, allow_nan=False) + "\n", encoding="utf-8")
    return target


def stored(pack: Pack) -> dict[str, Any]:
    """The reports beside a pack, by set.

    Raises:
        MPDError: there is none, one cannot be read, or one is of other weights than the pack's.
    """
    files = sorted((pack.folder / STORED).glob("*.json"))
    if not files:
        raise MPDError(
            f"{pack.folder / STORED}: no stored run of this pack: evaluate full, then make report."
        )
    known = {content_of(pack, quantize) for quantize in (None, "none", "nf4")}
    found = {}
    for file in files:
        try:
            report = json.loads(file.read_text(encoding="utf-8"))
            content = report["run"]["content"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise MPDError(f"{file}: not a report ({type(error).__name__}): delete it.") from error
        if content not in known:
            raise MPDError(
                f"{file}: its run is of other weights or settings than the pack's: evaluate full "
                "again, or delete it."
            )
        found[file.stem] = report
    return found


def rewrite(
    readme: Path, reports: Mapping[str, Any], measured: Mapping[str, Any] | None = None
) -> None:
    """Replace what lies between the two marks.

    Args:
        readme: the file.
        reports: by set of prompts.
        measured: figures of efficiency, where the bench has been run.

    Raises:
        MPDError: the marks are not there, once each and in order.
    """
    text = readme.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise MPDError(f"{readme}: needs the lines '{BEGIN}' and '{END}', once each, in order.")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    text_of_all = [*block(reports)]
    if measured:
        text_of_all += ["#### Efficiency", "", *efficiency_text(measured)]
    inside = "\n".join(text_of_all).rstrip("\n")
    readme.write_text(f"{before}{BEGIN}\n\n{inside}\n\n{END}{after}", encoding="utf-8")


def block(reports: Mapping[str, Any]) -> Iterator[str]:
    """Every stored report, a set of prompts after the other, each folded away."""
    for name, found in reports.items():
        run = found["run"]
        sampling = run["sampling"]
        yield f"<details><summary>{line(name)}: {run['count']} prompts, all tables</summary>"
        yield ""
        yield (
            f"{run['count']} prompts, {run['replies']} replies of at most "
            f"{sampling['max_new_tokens']} tokens, temperature {sampling['temperature']:g}, loop "
            f"penalty {sampling['dry_multiplier']:g}; {'; '.join(run['devices'])}; SHA-256 of the "
            f"replies {run['replies_sha256'][:12]}. Win rates in percent by the paper's rule."
        )
        yield ""
        for text in paper_tables(found):
            yield f"**{text.removeprefix('### ')}.**" if text.startswith("### ") else text
        yield from _identification(found)
        yield "</details>"
        yield ""


def _identification(found: Mapping[str, Any]) -> Iterator[str]:
    """Toggle identification: every method in its mean and worst cell, then cell by cell."""
    yield "**Toggle identification.**"
    yield ""
    yield (
        "Share of replies, in percent, in which a judge that sees one reply alone names the chosen "
        f"pole; neither counts half. The text measures: {found['validation']['said']}"
    )
    yield ""
    yield IDENTIFIED
    yield ""
    yield from identified(found["identified"])
    shown = found["identification"]
    main = {method: rows for method, rows in shown.items() if method == MAIN}
    rest = {method: rows for method, rows in shown.items() if method != MAIN}
    for judge in (name for name in judges_of(shown) if name != FORCED):
        name = line(NAMES.get(judge, judge))
        if main:
            yield f"Cell by cell, judge '{name}':"
            yield ""
            yield from heat(main, judge)
        yield f"<details><summary>The other methods, judge '{name}'</summary>"
        yield ""
        yield from heat(rest, judge)
        yield "</details>"
        yield ""
