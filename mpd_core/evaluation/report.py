"""The report of a run: figures from stored replies and verdicts, as JSON, Markdown and HTML."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mpd_core.errors import MPDError
from mpd_core.evaluation import figures as compute
from mpd_core.evaluation import identified, paper
from mpd_core.evaluation.judges import MEASURES, kind_of
from mpd_core.evaluation.judging import READERS, VERDICTS, WRITTEN, Judge, pairs_of
from mpd_core.evaluation.measures import FITTED, MeasuresJudge, Scorer, TextJudge
from mpd_core.evaluation.prompts import HUB
from mpd_core.evaluation.record import REPLIES, Row, RunRecord, load_run, read_rows, replies_of
from mpd_core.evaluation.tables import FORCED, MEASURE
from mpd_core.evaluation.texts import html, markdown
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
from mpd_core.training.data import Styled
from mpd_core.training.recipe import FILE as RECIPE
from mpd_core.training.recipe import load_recipe

JSON, MARKDOWN, HTML = "report.json", "report.md", "report.html"


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
    votes = [vote for vote in votes if vote.content == run.content]
    measures = TextJudge.of(pack)
    scorers: dict[str, Scorer] = {MEASURE: measures, FORCED: measures.forced}
    for judge in signatures(folder):
        if judge.name != MEASURES:  # which need no store
            scorers[judge.name] = scorer_of(judge, pack.space, folder)
    shown = identified.identify(pack.space, replies, scorers)
    checked = validation(measures, pack.space, answers)
    checked["said"] = f"{FITTED} {validation_said(checked)}".strip()
    by_hand = readers_figures(pack.space, folder)
    kinds = {MEASURES: checked["said"], READERS: readers_said(by_hand) if by_hand else ""}
    judges = _judges(pack, folder, measures, (replies, run.methods), answers, kinds)
    found = {
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
    found["paper"] = _paper(pack, run.methods, judges, found["people"])
    text = json.dumps(found, indent=1, allow_nan=False) + "\n"
    for name, content in ((JSON, text), (MARKDOWN, markdown(found)), (HTML, html(found))):
        (folder / name).write_text(content, encoding="utf-8")
    return found


def _facts(run: RunRecord, folder: Path, replies: Sequence[Row]) -> dict[str, Any]:
    return {
        "pack": run.pack,
        "content": run.content,
        "hashes": run.hashes,
        "prompts": run.prompts if run.prompts.startswith(HUB) else Path(run.prompts).name,
        "count": run.count,
        "methods": list(run.methods),
        "sampling": run.sampling,
        "devices": sorted({f"{row['device']}, {row['precision']}" for row in replies}),
        "replies": len(run.keys),
        "replies_sha256": file_sha256(folder / REPLIES),
    }


def _paper(
    pack: Pack, methods: Sequence[str], judges: Mapping[str, Any], voted: Mapping[str, Any]
) -> dict[str, Any]:
    whole = [row for row in voted["meetings"] if row["dimension"] == ALL]
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


def _judges(
    pack: Pack,
    folder: Path,
    measures: TextJudge,
    run: tuple[Sequence[Row], Sequence[str]],
    answers: Sequence[Styled],
    kinds: Mapping[str, str],
) -> dict[str, Any]:
    """Figures by judge, of all judges with stored verdicts on these replies."""
    replies, methods = run
    pairs = list(pairs_of(pack.space, replies, methods))
    known = known_pairs(pack.space, answers)
    length = measures.length_dimension
    table = {}
    for stored in signatures(folder):
        judge = _measured(folder, measures) if stored.name == MEASURES else stored
        found = judged(judge, [*pairs, *known], folder)
        if met := [row for row in found if row.pair.first != WRITTEN]:
            table[judge.name] = {
                "version": judge.version,
                "kind": kinds.get(judge.name) or kind_of(judge),
                "unread": unread(judge, folder),
                **compute.matrix(met, methods, length),
                "card": card([row for row in found if row.pair.first == WRITTEN], length),
            }
    return table


def _measured(folder: Path, measures: TextJudge) -> Judge:
    """The measures whose stored verdicts are shown: whether word vectors are installed here says
    nothing about verdicts that are there; those of measures that have changed are another judge's.
    """
    file = folder / VERDICTS.format(judge=MEASURES)
    stored = {row["version"] for row in read_rows(file)}
    for version in MeasuresJudge.of(measures).versions:
        if version in stored:
            return Judge(MEASURES, version)
    raise MPDError(
        f"{file}: its verdicts are of measures that have changed since: evaluate judge "
        f"--out {folder} first."
    )
