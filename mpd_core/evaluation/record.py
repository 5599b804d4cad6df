"""A run in its folder: what it consists of, and files of rows that survive a kill."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mpd_core.engine.plan import ONE_EXPERT
from mpd_core.errors import MPDError, RequestError
from mpd_core.method.preferences import LEFT_OUT
from mpd_core.saving import read_json, write_json

Row = dict[str, Any]
FILE = "run.json"
REPLIES = "replies.jsonl"
MAIN = "mpd"


class Lines:
    """A file of rows with a ``key`` each, to which rows are added, and never twice."""

    def __init__(self, file: Path) -> None:
        """Read what is there.

        Raises:
            MPDError: names a line that is not such a row.
        """
        self.file = file
        self.rows: dict[str, Row] = {row["key"]: row for row in read_rows(file)}

    @contextmanager
    def writing(self) -> Iterator[Lines]:
        """Open the file for appending, under an exclusive lock.

        Raises:
            MPDError: another process writes to the file.
        """
        self.file.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.file.with_suffix(".lock"), timeout=0)
        try:
            with lock:
                if self.file.is_file():  # a run that was killed may have left half a line
                    with self.file.open("rb+") as lines:
                        lines.truncate(lines.read().rfind(b"\n") + 1)
                        lines.flush()
                        os.fsync(lines.fileno())
                self.rows = {row["key"]: row for row in read_rows(self.file)}
                with self.file.open("a", encoding="utf-8") as self._open:
                    yield self
        except Timeout:
            raise MPDError(f"{self.file}: another process writes to it: wait for it.") from None

    def add(self, row: Row) -> None:
        """Append a row inside ``writing`` and flush it; rows with a known key are ignored."""
        if row["key"] in self.rows:
            return
        self._open.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
        self._open.flush()
        self.rows[row["key"]] = row


def read_rows(file: Path) -> Iterator[Row]:
    """All complete rows of a file; a missing file has none.

    Raises:
        MPDError: names a line that is no JSON object with a ``key``.
    """
    if not file.is_file():
        return
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                return  # a run was killed while writing it
            try:
                row = json.loads(line)
                known = isinstance(row["key"], str)
            except (ValueError, TypeError, KeyError):
                known = False
            if not known:
                raise MPDError(f"{file}:{number}: not a row of a run: delete this line.")
            yield row


@dataclass(frozen=True)
class RunRecord:
    """What a run consists of."""

    pack: str
    hashes: dict[str, str]
    prompts: str
    """Source of the prompts."""
    count: int
    methods: tuple[str, ...]
    codes: tuple[str, ...]
    sampling: dict[str, Any]
    keys: tuple[str, ...]
    content: str = ""
    """SHA-256 of all that the pack's replies depend on, see ``jobs.content_of``."""

    def save(self, folder: Path) -> None:
        """Replace the folder's definition."""
        write_json(folder / FILE, asdict(self))


def load_run(folder: Path) -> RunRecord:
    """Read what ``save`` wrote.

    Raises:
        MPDError: there is none, or it cannot be read.
    """
    try:
        found = read_json(folder / FILE)
        lists = {name: tuple(found[name]) for name in ("methods", "codes", "keys")}
        return RunRecord(**{**found, **lists})
    except FileNotFoundError:
        raise MPDError(f"{folder}: there is no run: start with evaluate run.") from None
    except (ValueError, KeyError, TypeError) as error:
        raise MPDError(f"{folder / FILE}: cannot be read ({error}): evaluate run again.") from None


def replies_of(folder: Path, run: RunRecord) -> list[Row]:
    """The run's replies in order; one without a preference is repeated for every preference.

    Raises:
        MPDError: some are missing.
    """
    stored = {row["key"]: row for row in read_rows(folder / REPLIES)}
    lost = sum(key not in stored for key in run.keys)
    if lost:
        raise MPDError(f"{folder}: {lost} of {len(run.keys)} replies are missing: evaluate run.")
    rows = [stored[key] for key in run.keys]
    return [
        {**row, "code": code}
        for row in rows
        for code in (run.codes if set(row["code"]) == {LEFT_OUT} else (row["code"],))
    ]


def among(methods: Sequence[str], chosen: Sequence[str]) -> list[str]:
    """Those methods of a run that were chosen; all where none was.

    Raises:
        RequestError: one that the run does not have.
    """
    if unknown := set(chosen) - set(methods):
        raise RequestError(
            f"--methods: the run has no replies by '{min(unknown)[:60]}': use {', '.join(methods)}."
        )
    return [method for method in methods if not chosen or method in chosen]


def meetings(methods: Sequence[str]) -> list[tuple[str, str]]:
    """All pairs of methods, except that single experts are compared with the main one only."""
    main = main_of(methods)
    ordered = [main, *(method for method in methods if method != main)]
    return [
        (first, second)
        for first, second in itertools.combinations(ordered, 2)
        if first == main or not (second.startswith(ONE_EXPERT) or first.startswith(ONE_EXPERT))
    ]


def main_of(methods: Sequence[str]) -> str:
    """Whom the others are compared with: MPD where it is there."""
    return MAIN if MAIN in methods else methods[0]
