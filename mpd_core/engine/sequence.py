"""A request in flight: its rows, its tokens, and where each row stands. No tensors, no torch."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field

from mpd_core.engine.plan import TRUNK, ExpertCall, ExpertPlan
from mpd_core.request import GenerationRequest


@dataclass(eq=False)
class CacheRow:
    """A row of a KV cache: a prompt, adapters, and the reply that a request's rows all share."""

    call: ExpertCall
    prompt: tuple[int, ...]
    """What it reads before it speaks: the rendered prompt, and the prefix of a branch."""
    length: int
    """Tokens that prompt and reply may grow to: what is reserved in the cache."""
    filled: int = 0
    """Positions of its cache row that have been written."""
    prefix_leader: CacheRow | None = None
    """A row with the same adapters whose prompt begins alike and is prefilled first."""
    prefix_len: int = 0
    """Tokens copied from the leader; of a leader: the most that any row copies."""
    cached_from: CacheRow | None = None
    """A running or cached row whose first keys and values are copied to it; None once they are."""
    cached_len: int = 0
    """Tokens copied from there."""
    trunk: CacheRow | None = None
    """The row of the layers below whose states it reads instead of tokens."""

    @property
    def lane(self) -> str:
        """The model that computes it."""
        return self.call.model

    @property
    def to_prefill(self) -> int:
        """Prompt tokens to write before decoding; the last one is the first step's input."""
        return len(self.prompt) - 1


def share_prefixes(rows: Iterable[CacheRow]) -> None:
    """Let rows that would compute the same keys and values at their start compute them once.

    Rows on one lane with the same adapters do so for as long as their prompts are equal, e.g.
    prompted experts up to their own instruction, however long the conversation before it is.
    """
    leaders: dict[tuple[str, object], CacheRow] = {}
    for row in rows:
        if row.trunk:
            continue  # the trunk's row is shared already, prefill and decoding alike
        leader = leaders.setdefault((row.lane, row.call.adapters), row)
        if leader is not row:
            row.prefix_len = _alike(leader, row)
            row.prefix_leader = leader
            leader.prefix_len = max(leader.prefix_len, row.prefix_len)


def reuse_prefixes(rows: Iterable[CacheRow], cached: Iterable[CacheRow]) -> None:
    """Let entering rows begin with what cached rows of the same lane and adapters hold already.

    Only what prompts have in common: that was written by prefill, as it would be again. A row that
    reads from a trunk takes no more than its trunk did, which comes first.
    """
    by_adapters: dict[object, list[CacheRow]] = {}
    for holder in cached:
        by_adapters.setdefault(holder.call.adapters, []).append(holder)
    for row in rows:
        most = row.trunk.cached_len if row.trunk else row.to_prefill
        for holder in by_adapters.get(row.call.adapters, ()):
            alike = min(most, _alike(holder, row))
            if alike > row.cached_len:
                row.cached_from, row.cached_len = holder, alike


def _alike(one: CacheRow, other: CacheRow) -> int:
    """Tokens to prefill that two rows' prompts begin with alike."""
    pairs = zip(one.prompt[:-1], other.prompt[:-1], strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def grow_trunk(rows: Iterable[CacheRow]) -> tuple[CacheRow, ...]:
    """One row of the shared lower layers for each prompt among these rows, which read from it."""
    grown: dict[tuple[int, ...], CacheRow] = {}
    for row in rows:
        fresh = CacheRow(ExpertCall(TRUNK, TRUNK), row.prompt, row.length)
        row.trunk = grown.setdefault(row.prompt, fresh)
    return tuple(grown.values())


@dataclass(eq=False)
class Sequence:
    """A request with its rows and the reply so far."""

    request: GenerationRequest
    plan: ExpertPlan
    experts: tuple[CacheRow, ...]
    pcm: CacheRow | None
    anchors: tuple[CacheRow, ...] = ()
    trunk: tuple[CacheRow, ...] = ()
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
    def rows(self) -> tuple[CacheRow, ...]:
        """Rows that are computed here, whatever the lane."""
        local = (row for row in self.experts if not row.call.remote)
        return (*self.trunk, *local, *self.anchors, *([self.pcm] if self.pcm else ()))

    @property
    def remote(self) -> tuple[CacheRow, ...]:
        """Rows that a server elsewhere is asked for."""
        return tuple(row for row in self.experts if row.call.remote)

    def on(self, lane: str) -> list[CacheRow]:
        """Its rows on a lane."""
        return [row for row in self.rows if row.lane == lane]

    def ids(self, row: CacheRow) -> tuple[int, ...]:
        """The whole text of a row so far."""
        return (*row.prompt, *self.tokens)

    @property
    def prefilled(self) -> bool:
        """Whether every row is ready to decode."""
        return all(row.filled >= row.to_prefill for row in self.rows)

    def next_input(self, row: CacheRow) -> tuple[int, int]:
        """Token and position that a row reads in the next step."""
        token = self.tokens[-1] if self.tokens else row.prompt[-1]
        return token, row.to_prefill + len(self.tokens)
