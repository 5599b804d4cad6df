"""What the Vote page's events do. Knows votes and ballots; knows no components."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mpd_core.errors import MPDError
from mpd_core.evaluation.judging import Pair
from mpd_core.evaluation.votes import Vote
from mpd_core.ui.people.ballots import Place, swapped

COOKIE = re.compile(r"[0-9a-f]{32}")
MOST_SEED = 2**31
FIRST, TIE, SECOND = "Output 1", "Tie", "Output 2"
CHOICES = (FIRST, TIE, SECOND)
THANKS = "Thank you: you have judged every pair that there is."
TWICE = "You have judged this pair before, and that vote stands: here is another."
ANEW = "The replies have changed since: that vote is not counted, here is another pair."

State = dict[str, Any]
"""The pair that a visitor looks at and the seed of its order; empty where there is none."""


@dataclass(frozen=True)
class Shown:
    """What the page is to show."""

    state: State
    note: str
    pair: Pair | None = None
    done: int = 0

    @property
    def texts(self) -> tuple[str, str]:
        """Output 1 and Output 2."""
        if self.pair is None:
            return "", ""
        asked = self.pair.whole
        shown = asked.swapped if swapped(self.state["seed"]) else asked
        return shown.first, shown.second


class Voting:
    """The events of one app."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def next(self, cookie: str, note: str = "") -> Shown:
        """A pair that this rater has not judged."""
        try:
            rater, votes = rater_of(cookie), self._place.votes()
            ballots, done = self._place.ballots(), votes.done(rater)
            seed = secrets.randbelow(MOST_SEED)
            key = ballots.draw(seed, done, votes.counts())
        except MPDError as error:
            return Shown({}, str(error))
        if key is None:
            return Shown({}, THANKS, done=len(done))
        return Shown({"pair": key, "seed": seed}, note, ballots.pairs[key], len(done))

    def cast(self, cookie: str, state: State, choices: Sequence[str | None]) -> Shown | str:
        """Keep what a rater chose of what was shown, and go on; or say what is missing.

        ``choices`` has one of ``CHOICES`` for each dimension of the pack; of those that the
        preference leaves out, anything.
        """
        try:
            pair = self._place.ballots().pairs.get(str(state.get("pair")))
            if pair is None:
                return self.next(cookie, ANEW)
            vote = self._vote(rater_of(cookie), pair, state, choices)
            if vote is None:
                return "Choose Output 1, Output 2 or Tie in every row first."
            counted = self._place.votes().cast(vote)
        except MPDError as error:
            return str(error)
        return self.next(cookie, "" if counted else TWICE)

    def _vote(
        self, rater: str, pair: Pair, state: State, choices: Sequence[str | None]
    ) -> Vote | None:
        pack, seed = self._place.pack, state["seed"]
        chosen = pack.space.parse(pair.code)
        sign = -1 if swapped(seed) else 1
        value = {FIRST: sign, TIE: 0, SECOND: -sign}
        verdicts = {}
        for dimension, pole, choice in zip(chosen.dimensions, chosen.choices, choices, strict=True):
            if pole is None:
                continue
            if choice not in value:
                return None
            verdicts[dimension.name] = value[choice]
        return Vote(
            rater=rater,
            pair=state["pair"],
            pack=pack.spec.name,
            content=self._place.ballots().content,
            prompt=pair.id,
            code=pair.code,
            first=pair.first,
            second=pair.second,
            swapped=swapped(seed),
            seed=seed,
            verdicts=verdicts,
        )


def rater_of(cookie: str) -> str:
    """A rater by an anonymous cookie, which is not kept itself.

    Raises:
        MPDError: it is none of ours.
    """
    if not isinstance(cookie, str) or not COOKIE.fullmatch(cookie):
        raise MPDError("Your browser sent no cookie of this page: reload it.")
    return hashlib.sha256(f"rater {cookie}".encode()).hexdigest()[:16]
