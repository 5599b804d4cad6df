"""A request in flight: its rows, its tokens, and where each row stands. No tensors, no torch."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field

from mpd_core.engine.plan import TRUNK, Plan, Row
from mpd_core.request import GenerationRequest


@dataclass(eq=False)
class Track:
    """One row of one sequence: a prompt, adapters, and the same reply as its kin."""

    row: Row
    prompt: tuple[int, ...]
    """What it reads before it speaks: the rendered prompt, and the prefix of a branch."""
    length: int
    """Tokens that prompt and reply may grow to: what is reserved in the cache."""
    filled: int = 0
    """Positions of its cache row that have been written."""
    leader: Track | None = None
    """A row with the same adapters whose prompt begins alike and is prefilled first."""
    shared: int = 0
    """Tokens taken over from the leader; of a leader: the most that anyone takes."""
    donor: Track | None = None
    """A running or kept row that it takes its first keys and values from, until it has them."""
    borrowed: int = 0
    """Tokens taken over from the donor."""
    trunk: Track | None = None
    """The row of the layers below whose states it reads instead of tokens."""

    @property
    def lane(self) -> str:
        """The model that computes it."""
        return self.row.model

    @property
    def to_prefill(self) -> int:
        """Prompt tokens to write before decoding; the last one is the first step's input."""
        return len(self.prompt) - 1


def share_prefixes(tracks: Iterable[Track]) -> None:
    """Let rows that would compute the same keys and values at their start compute them once.

    Rows on one lane with the same adapters do so for as long as their prompts are equal, e.g.
    prompted experts up to their own instruction, however long the conversation before it is.
    """
    leaders: dict[tuple[str, object], Track] = {}
    for track in tracks:
        if track.trunk:
            continue  # the trunk's row is shared already, prefill and decoding alike
        leader = leaders.setdefault((track.lane, track.row.adapters), track)
        if leader is not track:
            track.shared = _alike(leader, track)
            track.leader = leader
            leader.shared = max(leader.shared, track.shared)


def borrow_prefixes(tracks: Iterable[Track], holders: Iterable[Track]) -> None:
    """Let entering rows begin with what rows of the same lane and adapters hold already.

    Only what prompts have in common: that was written by prefill, as it would be again. A row that
    reads from a trunk takes no more than its trunk did, which comes first.
    """
    donors: dict[object, list[Track]] = {}
    for donor in holders:
        donors.setdefault(donor.row.adapters, []).append(donor)
    for track in tracks:
        most = track.trunk.borrowed if track.trunk else track.to_prefill
        for donor in donors.get(track.row.adapters, ()):
            alike = min(most, _alike(donor, track))
            if alike > track.borrowed:
                track.donor, track.borrowed = donor, alike


def _alike(one: Track, other: Track) -> int:
    """Tokens to prefill that two rows' prompts begin with alike."""
    pairs = zip(one.prompt[:-1], other.prompt[:-1], strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def grow_trunk(tracks: Iterable[Track]) -> tuple[Track, ...]:
    """One row of the shared lower layers for each prompt among these rows, which read from it."""
    grown: dict[tuple[int, ...], Track] = {}
    for track in tracks:
        fresh = Track(Row(TRUNK, TRUNK), track.prompt, track.length)
        track.trunk = grown.setdefault(track.prompt, fresh)
    return tuple(grown.values())


@dataclass(eq=False)
class Sequence:
    """A request with its rows and the reply so far."""

    request: GenerationRequest
    plan: Plan
    experts: tuple[Track, ...]
    pcm: Track | None
    anchors: tuple[Track, ...] = ()
    trunk: tuple[Track, ...] = ()
    """Rows that experts and PCM read from where the base's lower layers are shared."""
    tokens: list[int] = field(default_factory=list)
    """Drawn so far; of a branch, those after its prefix."""
    cancelled: bool = False

    @property
    def prefix(self) -> tuple[int, ...]:
        """What the reply begins with, which was not drawn here."""
        return self.request.branch.prefix if self.request.branch else ()

    @property
    def reply(self) -> tuple[int, ...]:
        """All tokens of the reply so far."""
        return (*self.prefix, *self.tokens)

    @property
    def forced_token(self) -> int | None:
        """What the next token is, whatever is drawn."""
        branch = self.request.branch
        return branch.token if branch and not self.tokens else None

    @property
    def forced_weights(self) -> tuple[float, ...] | None:
        """The experts' weights for the next token, whatever the method says."""
        branch = self.request.branch
        return branch.weights if branch and (branch.lasting or not self.tokens) else None

    @property
    def tracks(self) -> tuple[Track, ...]:
        """Rows that are computed here, whatever the lane."""
        local = (track for track in self.experts if not track.row.remote)
        rows = (*self.trunk, *local, *self.anchors)
        return (*rows, self.pcm) if self.pcm else rows

    @property
    def remote(self) -> tuple[Track, ...]:
        """Rows that a server elsewhere is asked for."""
        return tuple(track for track in self.experts if track.row.remote)

    def on(self, lane: str) -> list[Track]:
        """Its rows on a lane."""
        return [track for track in self.tracks if track.lane == lane]

    def ids(self, track: Track) -> tuple[int, ...]:
        """The whole text of a row so far."""
        return (*track.prompt, *self.tokens)

    @property
    def prefilled(self) -> bool:
        """Whether every row is ready to decode."""
        return all(track.filled >= track.to_prefill for track in self.tracks)

    def next_input(self, track: Track) -> tuple[int, int]:
        """Token and position that a row reads in the next step."""
        token = self.tokens[-1] if self.tokens else track.prompt[-1]
        return token, track.to_prefill + len(self.tokens)
