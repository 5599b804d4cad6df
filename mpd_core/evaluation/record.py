"""Definition of a run, stored beside its replies: their keys, methods, and how they were made."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mpd_core.engine.plan import ONE_EXPERT
from mpd_core.errors import MPDError, RequestError
from mpd_core.evaluation.store import Row, read_rows
from mpd_core.method.preferences import LEFT_OUT
from mpd_core.saving import write_json

FILE = "run.json"
REPLIES = "replies.jsonl"
MAIN = "mpd"


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
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
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
