"""Append-only JSON-lines files that survive a kill: an incomplete last line is dropped."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mpd_core.errors import MPDError

Row = dict[str, Any]


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
                _drop_half_a_line(self.file)
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


def _drop_half_a_line(file: Path) -> None:
    if not file.is_file():
        return
    with file.open("rb+") as lines:
        content = lines.read()
        lines.truncate(content.rfind(b"\n") + 1)
        lines.flush()
        os.fsync(lines.fileno())


def content_hash(value: object, *, sort_keys: bool = True) -> str:
    """SHA-256 of a value as JSON: what rows are keyed by."""
    text = json.dumps(value, sort_keys=sort_keys, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
