"""Blind readers' verdicts, by hand, brought to a run: see ``sheets`` for what they were given."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpd_core.errors import RequestError
from mpd_core.evaluation import judging, sheets
from mpd_core.evaluation.judging import READERS, SINGLES, VERDICTS, Answer, Judge
from mpd_core.evaluation.record import Lines, Row, main_of, read_rows
from mpd_core.evaluation.verdicts import by_hand
from mpd_core.evaluation.written import written
from mpd_core.method.preferences import PreferenceSpace
from mpd_core.saving import content_hash
from mpd_core.training.data import Styled

_HEADING = re.compile(r"^=== ([sp]\d+)\n", re.MULTILINE)
JUDGE = Judge(READERS, "by hand")


@dataclass(frozen=True)
class Reading:
    """One line of a reader, with what the key and the sheet say of its item."""

    place: str
    """File and line, for errors."""
    reader: str
    id: str
    said: Mapping[str, Any]
    item: sheets.Item

    def wrong(self, what: str) -> RequestError:
        """What cannot be taken of it, with its place."""
        return RequestError(f"{self.place}: {self.id}: {what}.")

    def check_fields(self, wanted: set[str]) -> None:
        """Refuse a line that lacks one of these, or has more."""
        if self.said.keys() != {"id", *wanted}:
            raise self.wrong(f"give id, {', '.join(sorted(wanted))} and nothing else")

    def answer(self, label: str, values: Mapping[str, int], facts: Mapping[str, Any]) -> Answer:
        """What it says under a label, which must be one of these values."""
        said = self.said[label]
        if not isinstance(said, str) or said not in values:
            raise self.wrong(f"'{label}' must be {', '.join(sorted(values))}")
        return Answer(values[said], json.dumps(self.said), {**facts, "reader": self.reader})

    def row(self, row: Row, asked: str) -> Row:
        """A row of its own for each reading, since several may be of the same text."""
        name = [self.reader.partition("-")[0], self.id, row["dimension"]]
        return {**row, "key": content_hash(name)[:32], "asked": asked}


def readings(folder: Path, kind: str) -> Iterator[Reading]:
    """All verdicts of a kind in a folder.

    Raises:
        RequestError: a file or a line that is not as it should be.
    """
    file = folder / sheets.KEY
    key, shown, seen = _object(_text(file)), _shown(folder), set()
    if not key or not all(isinstance(source, str) for source in key.values()):
        raise RequestError(
            f"{file}: not a key of sheets: give the folder that sheets were written to."
        )
    round_ = content_hash([key, shown])[:8]
    for file in sorted(folder.glob(f"out_{kind}_*.jsonl")):
        reader = f"{round_}-{file.stem.rpartition('_')[2]}"
        for number, line in enumerate(_text(file).split("\n"), 1):
            if line.strip():
                place = f"{file}:{number}"
                if "id" not in (said := _object(line)):
                    raise RequestError(
                        f'{place}: not a verdict: write {{"id": ...}}, each name once.'
                    )
                name = str(said["id"])
                if not (name.startswith(kind[0]) and name in shown and name in key):
                    raise RequestError(f"{place}: '{name[:40]}' is no item of {kind}_*.txt.")
                if name in seen:
                    raise RequestError(f"{place}: a second verdict on {name}: delete one.")
                seen.add(name)
                yield Reading(place, reader, name, said, (key[name], shown[name]))


def _object(text: str) -> dict[str, Any]:
    """An object of JSON; {} where it is none, or a name stands twice: one would be lost."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(found := dict(pairs)) < len(pairs):
            raise ValueError("a name stands twice")
        return found

    try:
        found = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _shown(folder: Path) -> dict[str, str]:
    """Text of every item in the sheets, by its name."""
    shown: dict[str, str] = {}
    for file in sorted([*folder.glob("singles_*.txt"), *folder.glob("pairs_*.txt")]):
        _, *parts = _HEADING.split(_text(file))
        for name, text in zip(parts[::2], parts[1::2], strict=True):
            if name in shown:
                raise RequestError(f"{file}: item {name} stands twice.")
            shown[name] = text.rstrip()
    return shown


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise RequestError(f"{file}: cannot be read ({type(error).__name__}).") from None


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
        said = (*replies, *written(space, answers))
        self._replies = {_stripped(sheets.single_item(row)): row for row in reversed(said)}
        pairs = [*judging.pairs_of(space, replies, methods)]
        self._pairs = {
            _stripped(sheets.pair_item(space, pair, flipped)): (pair, flipped)
            for pair in reversed(pairs)
            if pair.first == self._main
            for flipped in (False, True)
        }

    def singles(self, reading: Reading) -> Iterator[Row]:
        """Rows of a reading of one reply, one a dimension.

        Raises:
            RequestError: a verdict that is none, or a reply that the run does not have.
        """
        labels = sheets.labels(self._space)
        reading.check_fields({*labels, sheets.QUALITY})
        quality = reading.said[sheets.QUALITY]
        if type(quality) is not int or not 1 <= quality <= sheets.BEST:
            raise reading.wrong(f"'{sheets.QUALITY}' must be 1 to {sheets.BEST}")
        if (row := self._replies.get(reading.item)) is None:
            method, _, code = reading.item[0].partition("|")
            raise reading.wrong(f"the run has no such reply by '{method}' to {code}")
        facts = {"method": row["method"], "code": row["code"], "quality": quality}
        asked = judging.singles_of_reply(self._space, row["prompt"], row["text"])
        for single, label, dimension in zip(asked, labels, self._space.dimensions, strict=True):
            letters = {dimension.letter(pole): k for k, pole in enumerate(dimension.poles, 1)}
            answer = reading.answer(label, {sheets.NEITHER: 0, **letters}, facts)
            stored = judging.single_row(JUDGE, single, answer)
            yield reading.row(stored, stored["key"])

    def pairs(self, reading: Reading) -> Iterator[Row]:
        """Rows of a reading of two replies, one a dimension and one of the whole; errors alike."""
        if (found := self._pairs.get(reading.item)) is None:
            other, _, code = reading.item[0].partition("|")
            said = f"the run has no such replies by '{self._main}' and '{other}' to {code[:-2]}"
            raise reading.wrong(said)
        pair, flipped = found
        labels = [*map(str, range(1, len(pair.questions) + 1)), sheets.WHOLE]
        reading.check_fields({*labels})
        for question, label in zip((*pair.questions.values(), pair.whole), labels, strict=True):
            answer = reading.answer(label, {"1": 1, sheets.TIE: 0, "2": -1}, {})
            asked = question.swapped if flipped else question
            stored = judging.pair_row(JUDGE, pair, asked, answer)
            yield reading.row(stored, by_hand(stored["key"], pair))


def _stripped(item: sheets.Item) -> sheets.Item:
    """As sheets are read: blanks at a text's end do not count."""
    return item[0], item[1].rstrip()


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
