"""A pack's results as Markdown, from its stored reports: the whole, and README's one table."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from mpd_core.engine.plan import ONE_EXPERT
from mpd_core.evaluation import Found
from mpd_core.evaluation.cells import NOTHING, blocks, line, percent, union
from mpd_core.evaluation.efficiency import markdown as efficiency_text
from mpd_core.evaluation.jobs import AT
from mpd_core.evaluation.judges import MEASURES, REWARDS
from mpd_core.evaluation.markdown import heats, paper_tables, readers
from mpd_core.evaluation.paper import order_said
from mpd_core.evaluation.record import MAIN
from mpd_core.evaluation.tables import FORCED, IDENTIFIED, MEASURE, fewer, heat, identified


def results(reports: Mapping[str, Found], measured: Found | None, title: str) -> Iterator[str]:
    """All tables of reports, by set of prompts, and of the efficiency, as lines of Markdown."""
    yield from blocks(
        f"# Results of {line(title)}",
        "Written by `make report` from the stored reports in `evaluation/`; do not edit.",
    )
    for name, found in reports.items():
        yield from blocks(f"## {line(name)}", _run(found["run"]) + fewer(found))
        yield from paper_tables(found)
        yield from blocks(
            "### Toggle identification",
            "Share of replies, in percent, in which a judge that sees one reply alone names the "
            "chosen pole; neither counts half. The text measures: "
            f"{found['validation']['said']}",
            IDENTIFIED,
            identified(found["identified"]),
        )
        yield from heats(found, "Cell by cell, judge '{}':", without=FORCED)
        yield from readers(found)
    if measured:
        yield from ("## Efficiency", "", *efficiency_text(measured))


def _run(run: Found) -> str:
    sampling = run["sampling"]
    return (
        f"{run['count']} prompts, {run['replies']} replies of at most "
        f"{sampling['max_new_tokens']} tokens, temperature {sampling['temperature']:g}, loop "
        f"penalty {sampling['dry_multiplier']:g}; {'; '.join(run['devices'])}; SHA-256 of the "
        f"replies {run['replies_sha256'][:12]}. Win rates in percent by the paper's rule."
    )


def short(
    reports: Mapping[str, Found], measured: Found | None, versions: Collection[str]
) -> Iterator[str]:
    """README's table: MPD and the baselines on every prompt set, by every judge.

    ``versions`` are those of the text measures and reward models as they are now: a report by
    others says so.
    """
    judges = union(found["judges"] for found in reports.values())
    head = [f"{judge}: poles shown, worst cell" for judge in judges]
    head += [f"{judge}: wins against MPD" for judge in judges]
    rows = [row for name, found in reports.items() for row in _rows(name, found, judges)]
    yield from blocks((["prompts", "method", *head], rows))
    of_mpd = {
        f"{MAIN}, {name}": found["identification"][MAIN]
        for name, found in reports.items()
        if MAIN in found["identification"]
    }
    if (cells := heat(of_mpd, MEASURE))[1]:  # by the judge that no model here was trained on
        yield from blocks("Cell by cell, by the measures, in percent of MPD's replies:", cells)
    for name, found in reports.items():
        orders = " ".join(_orders(found, versions))
        yield f"- {line(name)}, {found['run']['count']} prompts.{fewer(found)} {orders}"
    for said in dict.fromkeys(found["validation"]["said"] for found in reports.values()):
        yield f"- Measures: {said}"
    if crowd := (measured or {}).get("crowd"):
        ways = (f"{percent(row['mpd_over_it'])}% of {row['way']}" for row in crowd["rows"])
        yield f"- The paper's {crowd['requests']} requests, time of MPD: {'; '.join(ways)}."
    yield ""


def _rows(prompts: str, found: Found, judges: list[str]) -> Iterator[list[str]]:
    methods = [m for m in found["run"]["methods"] if AT not in m and not m.startswith(ONE_EXPERT)]
    for method in methods:
        by_judge = found["identified"].get(method, {})
        shown = [_shown(by_judge.get(MEASURE if j == MEASURES else j)) for j in judges]
        wins = [_wins(found["judges"].get(j), method) for j in judges]
        yield [prompts if method == methods[0] else "", method, *shown, *wins]


def _shown(cell: Found | None) -> str:
    return f"{cell['mean']:.2f}, {cell['worst'][-1]:.2f}" if cell else NOTHING


def _wins(judge: Found | None, method: str) -> str:
    """Win rate of a method over MPD, with its interval."""
    for row in judge["meetings"] if judge else ():
        if (row["first"], row["second"]) == (MAIN, method) and row["paper_rate"] is not None:
            low, high = row["paper_interval"] or (row["paper_rate"],) * 2
            return f"{1 - row['paper_rate']:.2f} ({1 - high:.2f} to {1 - low:.2f})"
    return NOTHING


def _orders(found: Found, versions: Collection[str]) -> Iterator[str]:
    for name, tables in found["paper"]["judges"].items():
        older = name in (MEASURES, REWARDS) and found["judges"][name]["version"] not in versions
        said = f"{line(name)} of an earlier version" if older else line(name)
        order = order_said(tables["order"], found["judges"][name]["meetings"])
        yield f"Judge {said}: {order}"
