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
from mpd_core.evaluation.cells import grouped
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
    source: tuple[str, ...]
    shown: str
    """Text of the item in its sheet."""

    def wrong(self, what: str) -> RequestError:
        """What cannot be taken of it, with its place."""
        return RequestError(f"{self.place}: {self.id}: {what}.")


def readings(folder: Path, kind: str) -> Iterator[Reading]:
    """All verdicts of a kind in a folder.

    Raises:
        RequestError: a file or a line that is not as it should be.
    """
    key, shown, seen = _key(folder), _shown(folder), set()
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
                source = tuple(key[name].split("|"))
                yield Reading(place, reader, name, said, source, shown[name])


def _key(folder: Path) -> dict[str, str]:
    file = folder / sheets.KEY
    key = _object(_text(file))
    if not key or not all(isinstance(source, str) for source in key.values()):
        raise RequestError(
            f"{file}: not a key of sheets: give the folder that sheets were written to."
        )
    return key


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
        self._letters = [
            {sheets.NEITHER: 0, **{d.letter(pole): k for k, pole in enumerate(d.poles, 1)}}
            for d in space.dimensions
        ]
        said = (*replies, *written(space, answers))
        self._said = grouped(said, lambda row: (row["method"], row["code"]))
        pairs = judging.pairs_of(space, replies, methods)
        own = (pair for pair in pairs if pair.first == self._main)
        self._pairs = grouped(own, lambda pair: (pair.second, pair.code))

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
        for row in self._said.get((method, code), ()):
            said = row["prompt"], row["text"]
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
