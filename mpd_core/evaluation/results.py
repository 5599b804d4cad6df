"""A pack's results as Markdown, from its stored reports: the whole, and README's one table."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from mpd_core.engine.plan import ONE_EXPERT
from mpd_core.evaluation.cells import NOTHING, line, percent, table
from mpd_core.evaluation.efficiency import markdown as efficiency_text
from mpd_core.evaluation.identified import judges_of
from mpd_core.evaluation.jobs import AT
from mpd_core.evaluation.judges import MEASURES, REWARDS
from mpd_core.evaluation.meetings import MAIN
from mpd_core.evaluation.paper_text import order_said, paper_tables
from mpd_core.evaluation.short_text import (
    FORCED,
    IDENTIFIED,
    NAMES,
    fewer,
    heat,
    identified,
    readers,
)

MEASURE = "measure"
"""Name in ``identified`` of the judge that is called ``measures`` for pairs."""


def results(
    reports: Mapping[str, Any], measured: Mapping[str, Any] | None, title: str
) -> Iterator[str]:
    """All tables of all stored reports as lines of Markdown, one prompt set after the other.

    Args:
        reports: by set of prompts.
        measured: figures of efficiency, where the bench has been run.
        title: of the pack.
    """
    yield f"# Results of {line(title)}"
    yield ""
    yield "Written by `make report` from the stored reports in `evaluation/`; do not edit."
    yield ""
    for name, found in reports.items():
        yield f"## {line(name)}"
        yield ""
        yield _run(found["run"]) + fewer(found)
        yield ""
        yield from paper_tables(found)
        yield from _identification(found)
        yield from readers(found.get("readers"))
    if measured:
        yield "## Efficiency"
        yield ""
        yield from efficiency_text(measured)


def _run(run: Mapping[str, Any]) -> str:
    sampling = run["sampling"]
    return (
        f"{run['count']} prompts, {run['replies']} replies of at most "
        f"{sampling['max_new_tokens']} tokens, temperature {sampling['temperature']:g}, loop "
        f"penalty {sampling['dry_multiplier']:g}; {'; '.join(run['devices'])}; SHA-256 of the "
        f"replies {run['replies_sha256'][:12]}. Win rates in percent by the paper's rule."
    )


def _identification(found: Mapping[str, Any]) -> Iterator[str]:
    """Mean and worst cell of every method, then all cells."""
    yield "### Toggle identification"
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
    for judge in (name for name in judges_of(shown) if name != FORCED):
        yield f"Cell by cell, judge '{line(NAMES.get(judge, judge))}':"
        yield ""
        yield from heat(shown, judge)


def short(
    reports: Mapping[str, Any], measured: Mapping[str, Any] | None, versions: Collection[str]
) -> Iterator[str]:
    """README's table: MPD and the baselines on every prompt set, by every judge.

    Args:
        reports: by set of prompts.
        measured: figures of efficiency, where the bench has been run.
        versions: of the text measures and reward models as they are now; a report by others says
            so.
    """
    named = (found["judges"] for found in reports.values())
    judges = list(dict.fromkeys(name for by_name in named for name in by_name))
    head = [f"{judge}: poles shown, worst cell" for judge in judges]
    head += [f"{judge}: wins against MPD" for judge in judges]
    rows = [
        [name if first else "", method, *cells]
        for name, found in reports.items()
        for first, (method, *cells) in _rows(found, judges)
    ]
    yield from table(["prompts", "method", *head], rows)
    yield from _heat_of_mpd(reports)
    for name, found in reports.items():
        orders = " ".join(_orders(found, versions))
        yield f"- {line(name)}, {found['run']['count']} prompts.{fewer(found)} {orders}"
    for said in dict.fromkeys(found["validation"]["said"] for found in reports.values()):
        yield f"- Measures: {said}"
    if crowd := (measured or {}).get("crowd"):
        ways = (f"{percent(row['mpd_over_it'])}% of {row['way']}" for row in crowd["rows"])
        yield f"- The paper's {crowd['requests']} requests, time of MPD: {'; '.join(ways)}."
    yield ""


def _heat_of_mpd(reports: Mapping[str, Any]) -> Iterator[str]:
    """MPD's cells on every set, by the judge that no model here was trained on."""
    shown = {
        f"{MAIN}, {name}": found["identification"][MAIN]
        for name, found in reports.items()
        if MAIN in found["identification"]
    }
    if lines := heat(shown, MEASURE):
        yield from ("Cell by cell, by the measures, in percent of MPD's replies:", "", *lines)


def _rows(found: Mapping[str, Any], judges: list[str]) -> Iterator[tuple[bool, list[str]]]:
    methods = [m for m in found["run"]["methods"] if AT not in m and not m.startswith(ONE_EXPERT)]
    for number, method in enumerate(methods):
        by_judge = found["identified"].get(method, {})
        shown = [_shown(by_judge.get(MEASURE if j == MEASURES else j)) for j in judges]
        wins = [_wins(found["judges"].get(j), method) for j in judges]
        yield number == 0, [method, *shown, *wins]


def _shown(cell: Mapping[str, Any] | None) -> str:
    return f"{cell['mean']:.2f}, {cell['worst'][-1]:.2f}" if cell else NOTHING


def _wins(judge: Mapping[str, Any] | None, method: str) -> str:
    """Win rate of a method over MPD, with its interval."""
    for row in judge["meetings"] if judge else ():
        if (row["first"], row["second"]) == (MAIN, method) and row["paper_rate"] is not None:
            low, high = row["paper_interval"] or (row["paper_rate"],) * 2
            return f"{1 - row['paper_rate']:.2f} ({1 - high:.2f} to {1 - low:.2f})"
    return NOTHING


def _orders(found: Mapping[str, Any], versions: Collection[str]) -> Iterator[str]:
    for name, tables in found["paper"]["judges"].items():
        older = name in (MEASURES, REWARDS) and found["judges"][name]["version"] not in versions
        said = f"{line(name)} of an earlier version" if older else line(name)
        order = order_said(tables["order"], found["judges"][name]["meetings"])
        yield f"Judge {said}: {order}"
