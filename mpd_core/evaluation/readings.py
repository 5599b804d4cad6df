"""What blind readers wrote, line by line, with the items of their sheets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpd_core.errors import RequestError
from mpd_core.evaluation import sheets
from mpd_core.evaluation.record import content_hash

_HEADING = re.compile(r"^=== ([sp]\d+)\n", re.MULTILINE)


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
