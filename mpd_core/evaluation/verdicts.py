"""Stored verdicts, read back: pairs with both orders combined, and what single replies show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from mpd_core.evaluation import Figures, grouped, judging
from mpd_core.evaluation.judging import Judge, Pair
from mpd_core.evaluation.measures import Scorer
from mpd_core.evaluation.record import read_rows
from mpd_core.evaluation.statistics import both_orders, overall
from mpd_core.method.preferences import PreferenceSpace


@dataclass(frozen=True)
class Judged:
    """A pair with its verdicts, both orders combined."""

    pair: Pair
    verdicts: Mapping[str, int]
    """By dimension, from the view of the first."""
    flipped: Mapping[str, bool]
    whole: int | None = None
    """On the pair as a whole, of readers."""


def judged(judge: Judge, pairs: Iterable[Pair], folder: Path) -> list[Judged]:
    """All pairs whose verdicts are stored and readable: in both orders, but for readers."""
    values = {name: value for value, name in judging.WINS.items()}
    stored: dict[str, list[int]] = {}
    for row in read_rows(folder / judging.VERDICTS.format(judge=judge.name)):
        if (value := values.get(row["verdict"])) is not None:
            stored.setdefault(row.get("asked") or row["key"], []).append(value)
    found, by_readers = [], judge.name == judging.READERS
    for pair in pairs:
        verdicts, flipped = dict[str, int](), dict[str, bool]()
        for question in (*pair.questions.values(), pair.whole):
            keys = [judging.key_of(judge, q) for q in (question, question.swapped)]
            if by_readers:
                keys = [by_hand(key, pair) for key in keys]
            one, other = (stored.get(key, []) for key in keys)
            if by_readers and (one or other):
                verdicts[question.dimension] = overall([*one, *(-value for value in other)])
            elif one and other:
                orders = both_orders(one[0], other[0])
                verdicts[question.dimension], flipped[question.dimension] = orders
        whole = verdicts.pop(judging.WHOLE, None)
        if verdicts:
            found.append(Judged(pair, verdicts, flipped, whole))
    return found


def by_hand(key: str, pair: Pair) -> str:
    """Key of what readers were asked: verdicts stand for the two methods whose texts they got.

    Others may have said the same, but of those only such pairs would count.
    """
    return f"{key} {pair.first} {pair.second}"


def scorer_of(judge: Judge, space: PreferenceSpace, folder: Path) -> Scorer:
    """A scorer that looks up a judge's stored verdicts; replies without one have no entry.

    Of a text that several readers have read, what most of them say; neither where no pole has most.
    """
    stored: dict[str, Counter[str]] = {}
    for row in read_rows(folder / judging.SINGLES.format(judge=judge.name)):
        if row["verdict"] != judging.UNREAD:
            stored.setdefault(row.get("asked") or row["key"], Counter())[row["verdict"]] += 1

    def verdicts(prompt: str, text: str) -> dict[str, str | None]:
        found: dict[str, str | None] = {}
        for single in judging.singles_of_reply(space, prompt, text):
            if said := stored.get(judging.key_of(judge, single)):
                (most, count), *rest = said.most_common()
                alone = not rest or rest[0][1] < count
                found[single.dimension] = most if alone and most != judging.NEITHER else None
        return found

    return verdicts


def signatures(folder: Path) -> list[Judge]:
    """The judges with stored verdicts on a run, each with its latest version."""
    found = {}
    for pattern in (judging.SINGLES, judging.VERDICTS):
        for file in folder.glob(pattern.format(judge="*")):
            for row in read_rows(file):
                found[row["judge"]] = row["version"]
    return [Judge(name, found[name]) for name in sorted(found)]


def unread(judge: Judge, folder: Path) -> int:
    """Number of a judge's stored answers that could not be parsed."""
    rows = read_rows(folder / judging.VERDICTS.format(judge=judge.name))
    return sum(row["verdict"] == judging.UNREAD and row["version"] == judge.version for row in rows)


def readers_said(found: Figures) -> str:
    """A sentence on readers, for every table that uses their verdicts."""
    known = ", ".join(
        f"{name} {cell['named']:.2f} of {cell['replies']}"
        for name, cell in found["written"].items()
    )
    if known:
        known = f" Of written answers among them they name the pole: {known}."
    return (
        f"{found['readers']} blind readers, by hand: {found['replies']} single replies and "
        f"{found['pairs']} pairs, each in one order that chance has chosen.{known}"
    )


def readers_figures(space: PreferenceSpace, folder: Path) -> Figures:
    """What readers said beside poles and pairs, from stored verdicts; {} where nobody has read.

    ``quality`` is by method (mean of 5, and replies read), ``written`` by dimension the share of
    written answers whose pole they name.
    """
    singles = list(read_rows(folder / judging.SINGLES.format(judge=judging.READERS)))
    pairs = list(read_rows(folder / judging.VERDICTS.format(judge=judging.READERS)))
    if not singles and not pairs:
        return {}
    once = [row for row in singles if row["dimension"] == space.dimensions[0].name]
    marks = grouped(once, lambda row: row["method"])
    known: dict[str, list[bool]] = {}
    for row in (row for row in singles if row["method"] == judging.WRITTEN):
        pole = space.parse(row["code"]).chosen[row["dimension"]]
        known.setdefault(row["dimension"], []).append(row["verdict"] == pole.name)
    return {
        "readers": len({row["reader"] for row in (*singles, *pairs)}),
        "replies": len(once),
        "pairs": sum(row["dimension"] == judging.WHOLE for row in pairs),
        "quality": {
            method: {"mean": fmean(row["quality"] for row in rows), "replies": len(rows)}
            for method, rows in marks.items()
        },
        "written": {n: {"named": fmean(r), "replies": len(r)} for n, r in known.items()},
    }
