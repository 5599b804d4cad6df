"""Pairs of stored replies for people to compare: which, and in which order they are shown."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mpd_core.engine.plan import ONE_EXPERT
from mpd_core.errors import MPDError
from mpd_core.evaluation.record import MAIN, Row, RunRecord, load_run, meetings, replies_of
from mpd_core.packs import Pack


@dataclass(frozen=True)
class Ballot:
    """Two replies to one prompt under one preference."""

    key: str
    """Of the two stored replies, whichever stands first."""
    id: str
    prompt: str
    code: str
    first: str
    second: str
    """Methods."""
    texts: tuple[str, str]


class Ballots:
    """All pairs of a run that people are asked about: MPD with every other method."""

    def __init__(self, content: str, ballots: Sequence[Ballot]) -> None:
        self.content = content
        """Hash of the pack and setting that the replies came from."""
        self._by_key = {ballot.key: ballot for ballot in ballots}

    def __len__(self) -> int:
        return len(self._by_key)

    @classmethod
    def read(cls, folder: Path, pack: Pack) -> Ballots:
        """From a stored run.

        Raises:
            MPDError: it cannot be read, some replies are missing, or nobody meets anybody.
        """
        run = load_run(folder)
        if run.pack != pack.spec.name:
            raise MPDError(f"{folder}: a run of the pack '{run.pack[:60]}', not of this one.")
        for code in run.codes:
            pack.space.parse(code)  # refused: a run from before the pack's dimensions changed
        said: dict[tuple[str, str], dict[str, Row]] = {}
        for row in replies_of(folder, run):
            said.setdefault((row["id"], row["code"]), {})[row["method"]] = row
        found = [
            ballot
            for by_method in said.values()
            for pair in _asked(run)
            for ballot in _ballot(by_method, *pair)
        ]
        if not found:
            raise MPDError(f"{folder}: no two methods of this run have different replies.")
        return cls(run.content, found)

    def find(self, key: str) -> Ballot | None:
        """The pair of a key; None where it is of another run."""
        return self._by_key.get(key)

    def draw(self, seed: int, done: Collection[str], votes: Mapping[str, int]) -> Ballot | None:
        """One of the pairs with the fewest ``votes``; None where this rater has ``done`` all.

        Both go by keys; with the same of them, the same pair comes of the same seed.
        """
        left = [key for key in sorted(self._by_key) if key not in done]
        if not left:
            return None
        fewest = min(votes.get(key, 0) for key in left)
        chosen = [key for key in left if votes.get(key, 0) == fewest]
        return self._by_key[random.Random(seed).choice(chosen)]


def swapped(seed: int) -> bool:
    """Whether the second reply is shown as Output 1."""
    return bool(hashlib.sha256(f"order {seed}".encode()).digest()[0] & 1)


def _asked(run: RunRecord) -> list[tuple[str, str]]:
    pairs = meetings([method for method in run.methods if not method.startswith(ONE_EXPERT)])
    return [pair for pair in pairs if pair[0] == MAIN] or pairs


def _ballot(by_method: Mapping[str, Row], first: str, second: str) -> list[Ballot]:
    one, other = by_method.get(first), by_method.get(second)
    if one is None or other is None or one["text"] == other["text"]:
        return []
    parts = [one["code"], *sorted((one["key"], other["key"]))]
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
    texts = (one["text"], other["text"])
    return [Ballot(key, one["id"], one["prompt"], one["code"], first, second, texts)]
