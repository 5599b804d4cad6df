"""README's one table of results and the pack's RESULTS.md, from its stored reports."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from mpd_core.engine.plan import ONE_EXPERT
from mpd_core.errors import MPDError
from mpd_core.evaluation import Found, tables, union
from mpd_core.evaluation.efficiency import JSON as EFFICIENCY
from mpd_core.evaluation.efficiency import markdown
from mpd_core.evaluation.full import PREFIX
from mpd_core.evaluation.jobs import AT, content_of
from mpd_core.evaluation.judges import MEASURES, REWARDS
from mpd_core.evaluation.judges.rewards import version_of
from mpd_core.evaluation.measures import MeasuresJudge, TextJudge
from mpd_core.evaluation.record import FILE, MAIN
from mpd_core.evaluation.report import JSON
from mpd_core.packs import Pack
from mpd_core.rendering import NOTHING, rendered
from mpd_core.saving import read_json

BEGIN, END = "<!-- results: written by make report -->", "<!-- end of results -->"
STORED = "evaluation"
"""Folder beside ``pack.toml`` with one report a set of prompts."""
RESULTS = "RESULTS.md"
"""Every table of these reports, beside ``pack.toml``: it is void with the weights next to it."""


def runs_of(root: Path) -> list[Path]:
    """Folders of full runs."""
    return sorted(file.parent for file in root.glob(f"{PREFIX}*/{FILE}"))


def measured(pack: Pack, root: Path) -> dict[str, Any] | None:
    """Efficiency figures: of this machine's latest run, which is stored, or the stored ones."""
    target, found = pack.folder / f"{STORED}-{EFFICIENCY}", root / "efficiency" / EFFICIENCY
    if found.is_file():
        target.write_bytes(found.read_bytes())
    if not target.is_file():
        return None
    read: dict[str, Any] = read_json(target)
    return read


def keep(pack: Pack, folder: Path) -> Path:
    """Store a run's report beside the pack."""
    target = pack.folder / STORED / f"{folder.name.removeprefix(PREFIX)}.json"
    target.parent.mkdir(exist_ok=True)
    found = read_json(folder / JSON)
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
            report = read_json(file)
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
    readme: Path, pack: Pack, reports: Mapping[str, Any], measured: Mapping[str, Any] | None = None
) -> Path:
    """Replace what lies between README's two marks by one table; write all tables beside the pack.

    Returns:
        The file with all tables.

    Raises:
        MPDError: the marks are not there, once each and in order; nothing has been written.
    """
    text = readme.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise MPDError(f"{readme}: needs the lines '{BEGIN}' and '{END}', once each, in order.")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    target = pack.folder / RESULTS
    place = Path(os.path.relpath(target.resolve(), readme.resolve().parent)).as_posix()
    versions = {*MeasuresJudge.of(TextJudge.of(pack)).versions}
    if pack.spec.rewards:
        versions.add(version_of(pack.path(pack.spec.rewards.folder)))
    whole = results(reports, markdown(measured) if measured else "", pack.spec.title)
    target.write_text(whole.rstrip("\n") + "\n", encoding="utf-8")
    inside = f"{short(reports, measured, versions)}\nEvery table: [{RESULTS}]({place})."
    readme.write_text(f"{before}{BEGIN}\n\n{inside}\n\n{END}{after}", encoding="utf-8")
    return target


def results(reports: Mapping[str, Found], efficiency: str, title: str) -> str:
    """All tables of reports, by set of prompts, and what is known of the efficiency."""
    return rendered(
        "results.md", reports=reports, efficiency=efficiency, title=title, **tables.DRAWN
    )


def short(reports: Mapping[str, Found], measured: Found | None, versions: Collection[str]) -> str:
    """README's table: MPD and the baselines on every prompt set, by every judge.

    ``versions`` are those of the text measures and reward models as they are now: a report by
    others says so.
    """
    judges = union(found["judges"] for found in reports.values())
    head = [f"{judge}: poles shown, worst cell" for judge in judges]
    head += [f"{judge}: wins against MPD" for judge in judges]
    rows = [row for name, found in reports.items() for row in _rows(name, found, judges)]
    return rendered(
        "readme.md",
        methods=(["prompts", "method", *head], rows),
        of_mpd={
            f"{MAIN}, {name}": found["identification"][MAIN]
            for name, found in reports.items()
            if MAIN in found["identification"]
        },
        reports=reports,
        older=lambda name, judge: name in (MEASURES, REWARDS) and judge["version"] not in versions,
        measures=dict.fromkeys(found["validation"]["said"] for found in reports.values()),
        crowd=(measured or {}).get("crowd"),
        **tables.DRAWN,
    )


def _rows(prompts: str, found: Found, judges: list[str]) -> Iterator[list[str]]:
    methods = [m for m in found["run"]["methods"] if AT not in m and not m.startswith(ONE_EXPERT)]
    for method in methods:
        by_judge = found["identified"].get(method, {})
        cells = (by_judge.get(tables.MEASURE if j == MEASURES else j) for j in judges)
        shown = [f"{c['mean']:.2f}, {c['worst'][-1]:.2f}" if c else NOTHING for c in cells]
        wins = [_wins(found["judges"].get(j), method) for j in judges]
        yield [prompts if method == methods[0] else "", method, *shown, *wins]


def _wins(judge: Found | None, method: str) -> str:
    """Win rate of a method over MPD, with its interval."""
    for row in judge["meetings"] if judge else ():
        if (row["first"], row["second"]) == (MAIN, method) and row["paper_rate"] is not None:
            low, high = row["paper_interval"] or (row["paper_rate"],) * 2
            return f"{1 - row['paper_rate']:.2f} ({1 - high:.2f} to {1 - low:.2f})"
    return NOTHING
