"""Blind readers' verdicts, by hand, brought to a run: see ``sheets`` for what they were given."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from mpd_core.errors import RequestError
from mpd_core.evaluation import Figures, judging, sheets
from mpd_core.evaluation.judging import READERS, SINGLES, VERDICTS, Answer, Judge, Pair
from mpd_core.evaluation.readings import Reading, readings
from mpd_core.evaluation.record import Lines, Row, content_hash, main_of, read_rows
from mpd_core.evaluation.verdicts import by_hand
from mpd_core.evaluation.written import WRITTEN, written
from mpd_core.method.preferences import PreferenceSpace
from mpd_core.training.data import Styled

JUDGE = Judge(READERS, "by hand")


class Readers:
    """Turns readings into rows of verdicts on a run's replies."""

    def __init__(
        self,
        space: PreferenceSpace,
        replies: Sequence[Row],
        methods: Sequence[str],
        answers: Sequence[Styled],
    ) -> None:
        """Of a run, its main method first or named ``mpd``; ``answers`` may have been mixed in."""
        self._space, self._main = space, main_of(methods)
        self._letters = [
            {sheets.NEITHER: 0, **{d.letter(pole): k for k, pole in enumerate(d.poles, 1)}}
            for d in space.dimensions
        ]
        self._said: dict[tuple[str, str], list[tuple[str, str]]] = {}
        for row in (*replies, *written(space, answers)):
            at = self._said.setdefault((row["method"], row["code"]), [])
            at.append((row["prompt"], row["text"]))
        self._pairs: dict[tuple[str, str], list[Pair]] = {}
        for pair in judging.pairs_of(space, replies, methods):
            if pair.first == self._main:
                self._pairs.setdefault((pair.second, pair.code), []).append(pair)

    def singles(self, reading: Reading) -> Iterator[Row]:
        """Rows of a reading of one reply, one a dimension.

        Raises:
            RequestError: a verdict that is none, or a reply that the run does not have.
        """
        labels = sheets.labels(self._space)
        _check_fields(reading, {*labels, sheets.QUALITY})
        quality = reading.said[sheets.QUALITY]
        if type(quality) is not int or not 1 <= quality <= sheets.BEST:
            raise reading.wrong(f"'{sheets.QUALITY}' must be 1 to {sheets.BEST}")
        method, code = self._source(reading, 2)
        for said in self._said.get((method, code), ()):
            if sheets.single_text(*said).rstrip() == reading.shown:
                break
        else:
            raise reading.wrong(f"the run has no such reply by '{method}' to {code}")
        facts = {"method": method, "code": code, "quality": quality, "reader": reading.reader}
        asked = judging.singles_of_reply(self._space, *said)
        for single, label, letters in zip(asked, labels, self._letters, strict=True):
            row = judging.single_row(JUDGE, single, _answer(reading, label, letters, facts))
            yield _apart(row, reading, row["key"])

    def pairs(self, reading: Reading) -> Iterator[Row]:
        """Rows of a reading of two replies, one a dimension and one of the whole; errors alike."""
        other, code, flipped = self._source(reading, 3)
        if flipped not in ("0", "1"):
            raise reading.wrong(f"{sheets.KEY} must say 0 or 1")
        numbers = [str(n) for n in range(1, len(self._space.parse(code).poles) + 1)]
        _check_fields(reading, {*numbers, sheets.WHOLE})
        for pair in self._pairs.get((other, code), ()):
            asked = [*pair.questions.values(), pair.whole]
            if flipped == "1":
                asked = [question.swapped for question in asked]
            start, end = sheets.pair_ends(asked[0].prompt, asked[0].first, asked[0].second)
            if reading.shown.startswith(start) and reading.shown.endswith(end.rstrip()):
                break
        else:
            said = f"the run has no such replies by '{self._main}' and '{other}' to {code}"
            raise reading.wrong(said)
        facts = {"reader": reading.reader}
        for question, label in zip(asked, [*numbers, sheets.WHOLE], strict=True):
            values = {"1": 1, sheets.TIE: 0, "2": -1}
            row = judging.pair_row(JUDGE, pair, question, _answer(reading, label, values, facts))
            yield _apart(row, reading, by_hand(row["key"], pair))

    def _source(self, reading: Reading, parts: int) -> tuple[str, ...]:
        source = reading.source
        if len(source) != parts:
            raise reading.wrong(f"{sheets.KEY} must say {parts} things of it")
        self._space.parse(source[1])
        return source


def bring(readers: Readers, folders: Sequence[Path], run: Path) -> tuple[int, int]:
    """Store all verdicts that lie in folders of sheets; those that are stored already stay.

    Returns:
        How many single replies and pairs were read.

    Raises:
        RequestError: names the file and line of what cannot be taken; nothing has been stored.
    """
    singles = [reading for folder in folders for reading in readings(folder, "singles")]
    pairs = [reading for folder in folders for reading in readings(folder, "pairs")]
    if not singles and not pairs:
        raise RequestError("--verdicts: no line in out_singles_*.jsonl or out_pairs_*.jsonl.")
    rows = {
        SINGLES.format(judge=READERS): [(r, row) for r in singles for row in readers.singles(r)],
        VERDICTS.format(judge=READERS): [(r, row) for r in pairs for row in readers.pairs(r)],
    }
    for name, some in rows.items():
        stored = {row["key"]: row for row in read_rows(run / name)}
        for reading, row in some:
            if stored.setdefault(row["key"], row) != row:
                raise reading.wrong(f"another verdict on it is in {name}")
    for name, some in rows.items():
        if some:
            with Lines(run / name).writing() as lines:
                for _, row in some:
                    lines.add(row)
    return len(singles), len(pairs)


def _check_fields(reading: Reading, wanted: set[str]) -> None:
    if reading.said.keys() != {"id", *wanted}:
        raise reading.wrong(f"give id, {', '.join(sorted(wanted))} and nothing else")


def _answer(
    reading: Reading, label: str, values: Mapping[str, int], facts: Mapping[str, Any]
) -> Answer:
    said = reading.said[label]
    if not isinstance(said, str) or said not in values:
        raise reading.wrong(f"'{label}' must be {', '.join(sorted(values))}")
    return Answer(values[said], json.dumps(reading.said), facts)


def _apart(row: Row, reading: Reading, asked: str) -> Row:
    """A row of its own for each reading, since several may be of the same text."""
    name = [reading.reader.partition("-")[0], reading.id, row["dimension"]]
    return {**row, "key": content_hash(name)[:32], "asked": asked}


def said(found: Figures) -> str:
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


def figures(space: PreferenceSpace, folder: Path) -> Figures:
    """What readers said beside poles and pairs, from stored verdicts; {} where nobody has read.

    ``quality`` is by method (mean of 5, and replies read), ``written`` by dimension the share of
    written answers whose pole they name.
    """
    singles = list(read_rows(folder / SINGLES.format(judge=READERS)))
    pairs = list(read_rows(folder / VERDICTS.format(judge=READERS)))
    if not singles and not pairs:
        return {}
    first = space.dimensions[0].name
    once = [row for row in singles if row["dimension"] == first]
    marks: dict[str, list[int]] = {}
    for row in once:
        marks.setdefault(row["method"], []).append(row["quality"])
    known: dict[str, list[bool]] = {}
    for row in singles:
        if row["method"] == WRITTEN:
            pole = space.parse(row["code"]).chosen[row["dimension"]]
            known.setdefault(row["dimension"], []).append(row["verdict"] == pole.name)
    return {
        "readers": len({row["reader"] for row in (*singles, *pairs)}),
        "replies": len(once),
        "pairs": sum(row["dimension"] == judging.WHOLE for row in pairs),
        "quality": {m: {"mean": fmean(q), "replies": len(q)} for m, q in marks.items()},
        "written": {n: {"named": fmean(r), "replies": len(r)} for n, r in known.items()},
    }
