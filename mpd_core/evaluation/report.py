"""The report of a run: figures from stored replies and verdicts, as JSON, Markdown and HTML."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from mpd_core.errors import MPDError
from mpd_core.evaluation import Found, identified, paper, tables, union
from mpd_core.evaluation import figures as compute
from mpd_core.evaluation.judges import MEASURES, kind_of
from mpd_core.evaluation.judging import READERS, VERDICTS, WRITTEN, Pair, pairs_of
from mpd_core.evaluation.measures import FITTED, MeasuresJudge, Scorer, TextJudge
from mpd_core.evaluation.prompts import HUB
from mpd_core.evaluation.record import REPLIES, Row, RunRecord, load_run, read_rows, replies_of
from mpd_core.evaluation.tables import FORCED, MEASURE
from mpd_core.evaluation.topic import Topic
from mpd_core.evaluation.verdicts import (
    judged,
    readers_figures,
    readers_said,
    scorer_of,
    signatures,
    unread,
)
from mpd_core.evaluation.votes import ALL, Vote, agreement, meetings_of
from mpd_core.evaluation.written import card, known_pairs, validation, validation_said
from mpd_core.packs import Pack, file_sha256
from mpd_core.rendering import rendered
from mpd_core.training.data import Styled
from mpd_core.training.recipe import FILE as RECIPE
from mpd_core.training.recipe import load_recipe

JSON, MARKDOWN, HTML = "report.json", "report.md", "report.html"

ByCode = Mapping[str, Mapping[str, float]]
"""Shares by preference and dimension."""


def report(
    pack: Pack, folder: Path, answers: Sequence[Styled], votes: Sequence[Vote] = ()
) -> dict[str, Any]:
    """Compute the report of a folder's run, and write it there.

    Held-out written ``answers`` tell how well the measures read; of people's ``votes`` count those
    on these replies.

    Raises:
        MPDError: no run, replies that are missing, or verdicts of measures that have changed.
    """
    run = load_run(folder)
    replies = replies_of(folder, run)
    measures = TextJudge.of(pack)
    checked = validation(measures, pack.space, answers)
    checked["said"] = f"{FITTED} {validation_said(checked)}".strip()
    by_hand = readers_figures(pack.space, folder)
    kinds = {MEASURES: checked["said"], READERS: readers_said(by_hand) if by_hand else ""}
    scorers: dict[str, Scorer] = {MEASURE: measures, FORCED: measures.forced}
    for judge in signatures(folder):
        if judge.name != MEASURES:  # which need no store
            scorers[judge.name] = scorer_of(judge, pack.space, folder)
    pairs = [*pairs_of(pack.space, replies, run.methods), *known_pairs(pack.space, answers)]
    judges = _judges(folder, measures, pairs, run.methods, kinds)
    shown = identified.identify(pack.space, replies, scorers)
    votes = [vote for vote in votes if vote.content == run.content]
    figures: dict[str, Any] = {
        "run": _facts(run, folder, replies),
        "identification": shown,
        "identified": identified.means(shown, identified.whole(pack.space, replies, scorers)),
        "worst": identified.worst(identified.shares_of(shown, MEASURE)),
        "validation": checked,
        "quality": compute.quality(replies, Topic.installed()),
        "weights": compute.weights_by(replies),
        "judges": judges,
        "readers": by_hand,
        "people": {
            "votes": len(votes),
            "raters": len({vote.rater for vote in votes}),
            "agreement": agreement(votes) if votes else {},
            "meetings": meetings_of(votes),
        },
    }
    figures["paper"] = _paper(pack, run.methods, judges, figures["people"]["meetings"])
    text = json.dumps(figures, indent=1, allow_nan=False) + "\n"
    for name, content in ((JSON, text), (MARKDOWN, markdown(figures)), (HTML, html(figures))):
        (folder / name).write_text(content, encoding="utf-8")
    return figures


def _facts(run: RunRecord, folder: Path, replies: Sequence[Row]) -> dict[str, Any]:
    return {
        **{name: getattr(run, name) for name in ("pack", "content", "hashes")},
        "prompts": run.prompts if run.prompts.startswith(HUB) else Path(run.prompts).name,
        **{name: getattr(run, name) for name in ("count", "methods", "sampling")},
        "devices": sorted({f"{row['device']}, {row['precision']}" for row in replies}),
        "replies": len(run.keys),
        "replies_sha256": file_sha256(folder / REPLIES),
    }


def _judges(
    folder: Path,
    measures: TextJudge,
    pairs: Sequence[Pair],
    methods: Sequence[str],
    kinds: Mapping[str, str],
) -> dict[str, Any]:
    """Figures by judge, of all judges with stored verdicts on these pairs."""
    length, table = measures.length_dimension, {}
    for judge in signatures(folder):
        if judge.name == MEASURES:
            judge.version = _version(folder, measures)
        found = judged(judge, pairs, folder)
        if met := [row for row in found if row.pair.first != WRITTEN]:
            table[judge.name] = {
                "version": judge.version,
                "kind": kinds.get(judge.name) or kind_of(judge),
                "unread": unread(judge, folder),
                **compute.matrix(met, methods, length),
                "card": card([row for row in found if row.pair.first == WRITTEN], length),
            }
    return table


def _version(folder: Path, measures: TextJudge) -> str:
    """Of the measures whose stored verdicts are shown: whether word vectors are installed here says
    nothing about verdicts that are there; those of measures that have changed are another judge's.
    """
    file = folder / VERDICTS.format(judge=MEASURES)
    stored = {row["version"] for row in read_rows(file)}
    for version in MeasuresJudge.of(measures).versions:
        if version in stored:
            return version
    raise MPDError(
        f"{file}: its verdicts are of measures that have changed since: evaluate judge "
        f"--out {folder} first."
    )


def _paper(
    pack: Pack, methods: Sequence[str], judges: Mapping[str, Found], meetings: Sequence[Found]
) -> dict[str, Any]:
    """The paper's tables by each judge; ``meetings`` are people's."""
    whole = [row for row in meetings if row["dimension"] == ALL]
    own, trained = pack.spec.decode.space, {}
    if pack.trained and (pack.folder / RECIPE).is_file():
        spec = load_recipe(pack).pcm
        trained = {"method": spec.algorithm.upper(), "reward": spec.reward.replace("_", " ")}
    return {
        "judges": {
            name: {
                "table_2": paper.table_2(judge, methods),
                "table_4": paper.table_4(judge, methods, own, trained),
                "order": paper.order(judge),
            }
            for name, judge in judges.items()
        },
        "table_3": paper.table_3({**judges, **({"people": {"meetings": whole}} if whole else {})}),
    }


def markdown(found: Found) -> str:
    """The report of a run; ``found`` is what ``report`` computes."""
    return rendered("report.md", found=found, **tables.DRAWN)


def html(found: Found) -> str:
    """The same as one page that opens offline: heat tables, and win rates as intervals."""
    return rendered(
        "report.html",
        title=f"Evaluation of {found['run']['pack']}",
        found=found,
        shares_of=identified.shares_of,
        by_dimension=_by_dimension,
        mean=lambda shares: fmean(_cells(shares)),
        rates=lambda rows: {n: {**r["rates"], "average": r["average"]} for n, r in rows.items()},
        **tables.DRAWN,
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
