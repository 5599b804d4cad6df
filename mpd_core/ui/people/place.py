"""Where votes are kept and where the replies to vote on come from."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

from mpd_core.errors import MPDError
from mpd_core.evaluation.record import FILE, load_run
from mpd_core.evaluation.votes import DATA, Votes, folder
from mpd_core.evaluation.votes import FILE as VOTES
from mpd_core.packs import Pack
from mpd_core.ui.people.ballots import Ballots

RUNS = Path("runs")
NO_RUN = (
    "There are no stored replies to vote on yet: make some with "
    "python -m mpd_core evaluate run, then reload this page."
)


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
