"""The report of a run: figures from stored replies and verdicts, as JSON, Markdown and HTML."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mpd_core.errors import MPDError
from mpd_core.evaluation import figures as compute
from mpd_core.evaluation.card import RIGHT, card, known_pairs
from mpd_core.evaluation.html import html
from mpd_core.evaluation.judging import MeasuresJudge, PairJudge, judged, pairs_of
from mpd_core.evaluation.markdown import markdown
from mpd_core.evaluation.measures import TextJudge
from mpd_core.evaluation.record import load_run, replies_of
from mpd_core.evaluation.store import Row
from mpd_core.evaluation.tables import KIND, validation
from mpd_core.evaluation.topic import Topic
from mpd_core.evaluation.weights import weights_by
from mpd_core.packs import Pack
from mpd_core.training.data import Styled

JSON, MARKDOWN, HTML = "report.json", "report.md", "report.html"


def report(pack: Pack, folder: Path, answers: Sequence[Styled]) -> dict[str, Any]:
    """Compute and write the report of a folder's run.

    Args:
        pack: whose preferences the run is about.
        folder: with the run; the report is written beside it.
        answers: written ones, held out, that tell how well the measures read.

    Raises:
        MPDError: no run, or replies that are missing.
    """
    run = load_run(folder)
    replies = replies_of(folder, run)
    measures = TextJudge.of(pack)
    table = compute.identify(
        pack.space, replies, {"measure": measures, "measure_forced": measures.forced}
    )
    found = {
        "run": {
            "pack": run.pack,
            "hashes": run.hashes,
            "prompts": run.prompts,
            "count": run.count,
            "methods": list(run.methods),
            "sampling": run.sampling,
            "devices": sorted({f"{row['device']}, {row['precision']}" for row in replies}),
        },
        "identification": table,
        "worst": compute.worst(compute.shares_of(table, "measure")),
        "validation": validation(measures, pack.space, answers),
        "quality": compute.quality(replies, Topic.installed()),
        "weights": weights_by(replies),
        "judges": _judges(pack, folder, measures, (replies, run.methods), answers),
    }
    text = json.dumps(found, indent=1, allow_nan=False) + "\n"
    for name, content in ((JSON, text), (MARKDOWN, markdown(found)), (HTML, html(found))):
        (folder / name).write_text(content, encoding="utf-8")
    return found


def judge_named(name: str, pack: Pack) -> PairJudge:
    """A judge by its name.

    Raises:
        MPDError: there is none of that name.
    """
    if name == MeasuresJudge.name:
        return MeasuresJudge(TextJudge.of(pack))
    raise MPDError(f"Unknown judge '{name[:60]}': use {MeasuresJudge.name}.")


def _judges(
    pack: Pack,
    folder: Path,
    measures: TextJudge,
    run: tuple[Sequence[Row], Sequence[str]],
    answers: Sequence[Styled],
) -> dict[str, Any]:
    """By judge that has stored verdicts on these replies; with its card where it has one."""
    judge, (replies, methods) = MeasuresJudge(measures), run
    pairs = list(pairs_of(pack.space, replies, methods))
    known = known_pairs(pack.space, answers)
    found = judged(judge, [*pairs, *known], folder)
    met = [row for row in found if row.pair.first != RIGHT]
    if not met:
        return {}
    length = compute.length_dimension(measures)
    table = compute.matrix(met, methods, length)
    table["card"] = card([row for row in found if row.pair.first == RIGHT], length)
    return {judge.name: {"version": judge.version, "kind": KIND, **table}}
