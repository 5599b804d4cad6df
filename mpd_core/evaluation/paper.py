"""The paper's tables, from the figures of a run: Tables 2, 3 and 5, 4, and the order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from mpd_core.engine.plan import ONE_EXPERT
from mpd_core.evaluation import Figures, Found
from mpd_core.evaluation.figures import rate
from mpd_core.evaluation.jobs import AT, WEIGHED
from mpd_core.evaluation.record import MAIN
from mpd_core.evaluation.statistics import mean_known
from mpd_core.rendering import NOTHING

BASELINES = ("vanilla", "prompting", "soup")
ORDER = (*BASELINES, "uniform", MAIN)
"""From worst to best as the paper found them."""
SURE = 0.05
"""Holm's p up to which neighbours are told apart."""


def table_2(judge: Found, methods: Sequence[str]) -> Figures:
    """Rows against columns, as the paper's Table 2, with one row for every method that merges.

    The columns are the three baselines and MPD; the average of a baseline and of MPD is over all
    other columns, that of another method over the baselines alone, so that it compares with MPD's.

    Returns:
        ``columns``, and ``rows``: {method: {"rates": {column: rate or None}, "average"}}.
    """
    columns = [name for name in (*BASELINES, MAIN) if name in methods]
    others = [m for m in methods if m not in columns and not m.startswith(ONE_EXPERT)]
    rows: Figures = {}
    for name in (*columns, *others):
        rates = {c: rate(judge["meetings"], name, c) for c in columns if c != name}
        counted = (r for c, r in rates.items() if name in columns or c != MAIN)
        rows[name] = {"rates": rates, "average": mean_known(counted)}
    return {"columns": columns, "rows": rows}


def table_3(judges: Mapping[str, Found]) -> list[Figures]:
    """MPD against each other method by every judge, as the paper's Tables 3 and 5.

    Returns:
        Rows with ``second`` and, by judge, rate, interval, p, Holm's p and decided pairs.
    """
    found: dict[str, Figures] = {}
    for name, judge in judges.items():
        for row in judge["meetings"]:
            if row["first"] == MAIN and not row["second"].startswith(ONE_EXPERT):
                found.setdefault(row["second"], {})[name] = {
                    "rate": row["paper_rate"],
                    "interval": row["paper_interval"],
                    "p": row["p"],
                    "p_holm": row.get("p_holm"),
                    "decided": row["wins"] + row["losses"],
                }
    return [{"second": second, "judges": by_judge} for second, by_judge in found.items()]


def table_4(
    judge: Found, methods: Sequence[str], own_space: str, training: Mapping[str, str]
) -> list[Figures]:
    """Average win rates over the baselines by merging space and training, as the paper's Table 4.

    ``own_space`` is of methods without one in their name; ``training``, of the pack's PCM, has
    ``method`` and ``reward``, or nothing.
    """
    rows = []
    for method in methods:
        name, _, space = method.partition(AT)
        if name not in ("uniform", "static", *WEIGHED):
            continue
        how = training if training and name in WEIGHED else {"method": NOTHING, "reward": NOTHING}
        row = {"method": method, "space": space or own_space, "training": how["method"]}
        average = mean_known(rate(judge["meetings"], method, other) for other in BASELINES)
        rows.append({**row, "reward": how["reward"], "average": average})
    return sorted(rows, key=lambda row: -1.0 if row["average"] is None else row["average"])


def order(judge: Found) -> list[str]:
    """The paper's five methods from worst to best by Bradley-Terry strength, as found here."""
    met = [name for name in ORDER if name in judge["strengths"]]
    return sorted(met, key=lambda name: float(judge["strengths"][name]))


def order_said(found: Sequence[str], meetings: Sequence[Found]) -> str:
    """The order as found, beside the paper's; and which neighbours chance may have put so."""
    known = [name for name in ORDER if name in found]
    same = "as in the paper" if list(found) == known else f"in the paper {' < '.join(known)}"
    told = {frozenset((m["first"], m["second"])) for m in meetings if m["p_holm"] <= SURE}
    chance = [f"{one} and {other}" for one, other in pairwise(found) if {one, other} not in told]
    said = f"From worst to best by Bradley-Terry: {' < '.join(found)} ({same})."
    if not chance:
        return said
    doubt = f"Chance alone may order {', '.join(chance)} (Holm's p of their meeting over {SURE:g})."
    return f"{said} {doubt}"
