"""Pairs of stored replies for people to compare, and where their votes are kept."""

from __future__ import annotations

import hashlib
import os
import random
import threading
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from mpd_core.engine.plan import ONE_EXPERT
from mpd_core.errors import MPDError
from mpd_core.evaluation.judging import Pair, pairs_of
from mpd_core.evaluation.record import FILE, MAIN, load_run, replies_of
from mpd_core.evaluation.votes import DATA, Votes, folder
from mpd_core.evaluation.votes import FILE as VOTES
from mpd_core.packs import Pack
from mpd_core.saving import content_hash

RUNS = Path("runs")
NO_RUN = (
    "There are no stored replies to vote on yet: make some with "
    "python -m mpd_core evaluate run, then reload this page."
)


class Ballots:
    """All pairs of a run that people are asked about: MPD with every other method."""

    def __init__(self, content: str, pairs: Mapping[str, Pair]) -> None:
        """With pairs by a key of the two stored replies, whichever stands first."""
        self.content = content
        """Hash of the pack and setting that the replies came from."""
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    @classmethod
    def read(cls, folder: Path, pack: Pack) -> Ballots:
        """From a stored run.

        Raises:
            MPDError: it cannot be read, some replies are missing, or nobody meets anybody.
        """
        run = load_run(folder)
        if run.pack != pack.spec.name:
            raise MPDError(f"{folder}: a run of the pack '{run.pack[:60]}', not of this one.")
        replies = replies_of(folder, run)
        keys = {(row["id"], row["code"], row["method"]): row["key"] for row in replies}
        methods = [method for method in run.methods if not method.startswith(ONE_EXPERT)]
        found = {
            _key(pair, keys): pair
            for pair in pairs_of(pack.space, replies, methods)
            if (pair.first == MAIN or MAIN not in methods) and not pair.whole.alike
        }
        if not found:
            raise MPDError(f"{folder}: no two methods of this run have different replies.")
        return cls(run.content, found)

    def draw(self, seed: int, done: Collection[str], votes: Mapping[str, int]) -> str | None:
        """The key of a pair with the fewest ``votes``; None where this rater has ``done`` all.

        Both go by keys; with the same of them, the same pair comes of the same seed.
        """
        left = [key for key in sorted(self.pairs) if key not in done]
        if not left:
            return None
        fewest = min(votes.get(key, 0) for key in left)
        chosen = [key for key in left if votes.get(key, 0) == fewest]
        return random.Random(seed).choice(chosen)


def swapped(seed: int) -> bool:
    """Whether the second reply is shown as Output 1."""
    return bool(hashlib.sha256(f"order {seed}".encode()).digest()[0] & 1)


def _key(pair: Pair, keys: Mapping[tuple[str, str, str], str]) -> str:
    own = (keys[pair.id, pair.code, method] for method in (pair.first, pair.second))
    return content_hash([pair.code, *sorted(own)])[:32]


class Place:
    """One app's votes and ballots; both are opened when somebody comes."""

    def __init__(self, pack: Pack) -> None:
        self.pack = pack
        self._lock = threading.Lock()
        self._ballots: tuple[tuple[Path, int], Ballots] | None = None

    @property
    def warning(self) -> str:
        """What a page says where votes may not last; "" where nothing is known against it."""
        if os.environ.get(DATA):
            return ""
        host = "Space" if os.environ.get("SPACE_ID") else "container"
        if host == "container" and not Path("/.dockerenv").exists():
            return ""
        return (
            f"Votes are lost when this {host} restarts: its owner can set {DATA} to a folder on a "
            "lasting disk."
        )

    def votes(self) -> Votes:
        """The votes.

        Raises:
            MPDError: the folder cannot be written, or the file is no database of votes.
        """
        return Votes(folder() / VOTES)

    def ballots(self) -> Ballots:
        """Of the newest whole run of this pack; read again when there is a newer one.

        Raises:
            MPDError: there is none; why the newest cannot be read.
        """
        refused: MPDError | None = None
        for file in self._runs():
            stamp = (file, file.stat().st_mtime_ns)
            with self._lock:
                if self._ballots and self._ballots[0] == stamp:
                    return self._ballots[1]
                try:
                    self._ballots = (stamp, Ballots.read(file.parent, self.pack))
                    return self._ballots[1]
                except MPDError as error:  # e.g. its replies are being generated
                    refused = refused or error
        raise refused or MPDError(NO_RUN)

    def _runs(self) -> Iterator[Path]:
        """The newest of ``runs`` and the votes' folder first, last what the pack brings along."""
        own = self.pack.folder / "evaluation"
        made = (RUNS / self.pack.spec.name, folder() / self.pack.spec.name)
        files = [file for place in made for file in (place / FILE, *place.glob(f"*/{FILE}"))]
        files = sorted(filter(Path.is_file, files), key=lambda file: -file.stat().st_mtime_ns)
        for file in (*files, *own.glob(f"*/{FILE}")):
            try:
                if load_run(file.parent).pack == self.pack.spec.name:
                    yield file
            except MPDError:  # e.g. a training's, which has the same name
                continue
