"""Pairs of stored replies for people to compare: which, and in which order they are shown."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mpd_core.engine.plan import ONE_EXPERT
from mpd_core.errors import MPDError
from mpd_core.evaluation.judging import Pair, pairs_of
from mpd_core.evaluation.record import MAIN, load_run, replies_of
from mpd_core.packs import Pack
from mpd_core.saving import content_hash


@dataclass(frozen=True)
class Ballot:
    """A pair of replies that people are asked about."""

    key: str
    """Of the two stored replies, whichever stands first."""
    pair: Pair


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
        replies = replies_of(folder, run)
        keys = {(row["id"], row["code"], row["method"]): row["key"] for row in replies}
        methods = [method for method in run.methods if not method.startswith(ONE_EXPERT)]
        found = [
            Ballot(_key(pair, keys), pair)
            for pair in pairs_of(pack.space, replies, methods)
            if (pair.first == MAIN or MAIN not in methods) and not pair.whole.alike
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


def _key(pair: Pair, keys: Mapping[tuple[str, str, str], str]) -> str:
    own = (keys[pair.id, pair.code, method] for method in (pair.first, pair.second))
    return content_hash([pair.code, *sorted(own)])[:32]
