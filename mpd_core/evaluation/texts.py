"""Figures as texts, by templates: a run's report, as Markdown and as a page; RESULTS.md; README."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from statistics import fmean

from mpd_core.engine.plan import ONE_EXPERT
from mpd_core.evaluation import Found, tables
from mpd_core.evaluation.cells import union
from mpd_core.evaluation.identified import judges_of, shares_of
from mpd_core.evaluation.jobs import AT
from mpd_core.evaluation.judges import MEASURES, REWARDS
from mpd_core.evaluation.paper import order_said
from mpd_core.evaluation.record import MAIN
from mpd_core.rendering import NOTHING, rendered

ByCode = Mapping[str, Mapping[str, float]]
"""Shares by preference and dimension."""
_DRAWN = {"tables": tables, "judges_of": judges_of, "order_said": order_said}


def markdown(found: Found) -> str:
    """The report of a run; ``found`` is what ``report`` computes."""
    return rendered("report.md", found=found, **_DRAWN)


def html(found: Found) -> str:
    """The same as one page that opens offline: heat tables, and win rates as intervals."""
    return rendered(
        "report.html",
        title=f"Evaluation of {found['run']['pack']}",
        found=found,
        shares_of=shares_of,
        by_dimension=_by_dimension,
        mean=lambda shares: fmean(_cells(shares)),
        rates=lambda rows: {n: {**r["rates"], "average": r["average"]} for n, r in rows.items()},
        **_DRAWN,
    )


def _by_dimension(shares: ByCode) -> tuple[list[str], ByCode, float]:
    """Preferences across, dimensions down, and the least share."""
    rows = {
        name: {code: row[name] for code, row in shares.items() if name in row}
        for name in union(shares.values())
    }
    return sorted(shares), rows, min(_cells(shares), default=0.0)


def _cells(shares: ByCode) -> list[float]:
    return [share for row in shares.values() for share in row.values()]


def results(reports: Mapping[str, Found], efficiency: str, title: str) -> str:
    """All tables of reports, by set of prompts, and what is known of the efficiency."""
    return rendered("results.md", reports=reports, efficiency=efficiency, title=title, **_DRAWN)


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
        **_DRAWN,
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
