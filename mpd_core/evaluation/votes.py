"""People's votes, a row each in SQLite, never two of one rater on one pair; and what they say."""

from __future__ import annotations

import csv
import io
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timezone
from pathlib import Path

from mpd_core.errors import MPDError
from mpd_core.evaluation import Figures
from mpd_core.evaluation.statistics import Tally, over_prompts, overall

FILE, DATA = "votes.sqlite3", "MPD_DATA"
"""Name of the file, and the environment variable that names its folder."""
WAIT_SECONDS = 20.0
"""For another process or thread that is writing."""
TABLE = """
CREATE TABLE IF NOT EXISTS votes (
  at TEXT NOT NULL, rater TEXT NOT NULL, pair TEXT NOT NULL, pack TEXT NOT NULL,
  content TEXT NOT NULL, prompt TEXT NOT NULL, code TEXT NOT NULL, first TEXT NOT NULL,
  second TEXT NOT NULL, swapped INTEGER NOT NULL, seed INTEGER NOT NULL, verdicts TEXT NOT NULL,
  UNIQUE (rater, pair)
)
"""
ALL = "all"
"""In place of a dimension: the paper's verdict over all of them."""


def folder() -> Path:
    """Where votes are kept: what ``MPD_DATA`` names, or ``runs``."""
    return Path(os.environ.get(DATA) or "runs").expanduser()


@dataclass(frozen=True)
class Vote:
    """One rater's vote on one pair."""

    rater: str
    """Hash of an anonymous cookie."""
    pair: str
    pack: str
    content: str
    """Hash of pack and setting, see ``jobs.content_of``."""
    prompt: str
    """Id of the prompt."""
    code: str
    first: str
    second: str
    """Methods."""
    swapped: bool
    """The second was shown as Output 1."""
    seed: int
    verdicts: Mapping[str, int]
    """By dimension, from the view of ``first``: 1, 0 for a tie, -1."""
    at: str = ""
    """When, in UTC; filled in when it is cast."""


class Votes:
    """A file of votes; every call opens it anew, so that any number of processes may."""

    def __init__(self, file: Path) -> None:
        """Make the file where there is none.

        Raises:
            MPDError: it cannot be written, or is something else.
        """
        self._file = file
        with self._open() as votes:
            votes.execute("PRAGMA journal_mode = WAL")
            votes.execute(TABLE)

    def cast(self, vote: Vote) -> bool:
        """Store a vote durably.

        Returns:
            False where this rater has judged the pair before: the first vote stands.
        """
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        row = {**asdict(vote), "at": now, "verdicts": json.dumps(dict(vote.verdicts))}
        names, places = ", ".join(row), ", ".join(f":{name}" for name in row)
        with self._open() as votes:
            done = votes.execute(f"INSERT OR IGNORE INTO votes ({names}) VALUES ({places})", row)
            return done.rowcount == 1

    def all(self) -> list[Vote]:
        """Every vote, the oldest first."""
        names = ", ".join(field.name for field in fields(Vote))
        with self._open() as votes:
            rows = votes.execute(f"SELECT {names} FROM votes ORDER BY rowid").fetchall()
        found = [Vote(*row) for row in rows]
        return [
            replace(vote, swapped=bool(vote.swapped), verdicts=json.loads(str(vote.verdicts)))
            for vote in found
        ]

    def counts(self) -> dict[str, int]:
        """How many votes each pair has."""
        with self._open() as votes:
            return dict(votes.execute("SELECT pair, COUNT(*) FROM votes GROUP BY pair").fetchall())

    def done(self, rater: str) -> set[str]:
        """The pairs that a rater has judged."""
        with self._open() as votes:
            rows = votes.execute("SELECT pair FROM votes WHERE rater = ?", (rater,)).fetchall()
        return {pair for (pair,) in rows}

    def csv(self) -> str:
        """Every vote as a line, a column a dimension; no cell begins like a formula."""
        votes = self.all()
        dimensions = list(dict.fromkeys(name for vote in votes for name in vote.verdicts))
        plain = [field.name for field in fields(Vote) if field.name != "verdicts"]
        lines = io.StringIO()
        writer = csv.writer(lines)
        writer.writerow([*plain, *map(_cell, dimensions)])
        for vote in votes:
            cells = [_cell(getattr(vote, name)) for name in plain]
            writer.writerow([*cells, *(vote.verdicts.get(name, "") for name in dimensions)])
        return lines.getvalue()

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A connection, and one transaction, for as long as the block lasts."""
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self._file, timeout=WAIT_SECONDS)) as votes:
                votes.execute("PRAGMA synchronous = FULL")
                with votes:
                    yield votes
        except (OSError, sqlite3.Error) as error:
            raise MPDError(
                f"{self._file}: votes cannot be kept there ({error}): set MPD_DATA to a folder "
                "that can be written."
            ) from error


def _cell(value: object) -> object:
    """Spreadsheets run what begins like a formula."""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{value}"
    return value


def meetings_of(votes: Iterable[Vote]) -> list[Figures]:
    """All pairs of methods with votes, over all dimensions and by dimension: ``Tally.figures`` and
    ``paper_interval``, of the win rate by the paper's rule, over prompts, 95%."""
    pairs: dict[tuple[str, str], dict[str, list[tuple[str, int]]]] = {}
    for vote in votes:
        met = pairs.setdefault((vote.first, vote.second), {})
        for name, verdict in _verdicts(vote).items():
            met.setdefault(name, []).append((vote.prompt, verdict))
    return [
        {
            **{"first": first, "second": second, "dimension": name},
            **Tally.of(verdict for _, verdict in given).figures,
            "paper_interval": over_prompts(*zip(*given, strict=True)),
        }
        for (first, second), met in pairs.items()
        for name, given in met.items()
    ]


def _verdicts(vote: Vote) -> Mapping[str, int]:
    return {ALL: overall(vote.verdicts.values()), **vote.verdicts}


def agreement(votes: Iterable[Vote]) -> dict[str, float | None]:
    """Krippendorff's alpha by dimension, and of the paper's verdict over all of them."""
    units: dict[str, dict[str, list[int]]] = {ALL: {}}
    for vote in votes:
        for name, verdict in _verdicts(vote).items():
            units.setdefault(name, {}).setdefault(vote.pair, []).append(verdict)
    return {name: alpha(rated.values()) for name, rated in units.items()}


def alpha(units: Iterable[Sequence[float]]) -> float | None:
    """Krippendorff's alpha with the difference function of an interval scale, (a - b)^2.

    So a loss is further from a win than a tie is. 1 is full agreement, 0 what chance would give;
    below 0 raters disagree more than by chance. Units that one rater alone has seen say nothing.

    Args:
        units: the ratings of each unit, by whatever raters; -1, 0 and 1 for loss, tie and win.

    Returns:
        None where no two raters have seen the same, or all ratings are alike.
    """
    shared = [unit for unit in units if len(unit) > 1]
    every = [value for unit in shared for value in unit]
    seen = sum(_apart(unit) / (len(unit) - 1) for unit in shared)
    expected = _apart(every) / (len(every) - 1) if every else 0.0
    return 1 - seen / expected if expected else None


def _apart(values: Sequence[float]) -> float:
    """Sum of squared differences over all ordered pairs of these values."""
    return 2 * (len(values) * sum(value**2 for value in values) - sum(values) ** 2)
