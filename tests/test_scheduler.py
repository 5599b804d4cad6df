"""Rows stay dense and in the hands of their owners, whoever joins and leaves."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpd_core.engine.scheduler import Move, RowTable, Scheduler
from mpd_core.engine.sequence import Sequence, Track
from mpd_core.errors import BusyError
from mpd_core.experts import Plan, Row
from mpd_core.experts.plan import BASE, PCM
from mpd_core.request import GenerationRequest, Message

LENGTH = 10
REQUEST = GenerationRequest((Message("user", "hi"),), "A")


def make_sequence(experts: int) -> Sequence:
    rows = tuple(Track(Row(f"e{k}"), (1, 2, 3), LENGTH) for k in range(experts))
    return Sequence(REQUEST, Plan(()), rows, Track(Row("pcm", PCM), (1, 2), LENGTH))


def make_tables(base: int, pcm: int, budget: int = 1000) -> dict[str, RowTable]:
    return {BASE: RowTable(base, budget), PCM: RowTable(pcm, budget)}


class Cache:
    """What each row of a lane's cache holds, as a runner would carry out the moves."""

    def __init__(self, capacity: int) -> None:
        self.rows: list[Track | None] = [None] * capacity

    def write(self, table: RowTable) -> None:
        for place, track in enumerate([*table.running, *table.entering]):
            self.rows[place] = self.rows[place] or track

    def move(self, moves: list[Move]) -> None:
        for move in moves:
            assert self.rows[move.source] is move.track
            self.rows[move.target], self.rows[move.source] = move.track, None

    def check(self, table: RowTable) -> None:
        held = [*table.running, *table.entering]
        assert self.rows[: len(held)] == held


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_rows_follow_their_tracks(data: st.DataObject) -> None:
    scheduler = Scheduler(make_tables(9, 3), max_waiting=100)
    caches = {BASE: Cache(9), PCM: Cache(3)}
    for _ in range(data.draw(st.integers(1, 30))):
        action = data.draw(st.sampled_from(["add", "settle", "remove"]))
        if action == "add":
            scheduler.add(make_sequence(data.draw(st.integers(1, 4))))
        elif action == "settle":
            scheduler.settle()
        elif everyone := scheduler.everyone():
            leaver = data.draw(st.sampled_from(everyone))
            inside = leaver not in scheduler.waiting
            for move in scheduler.remove(leaver):
                caches[move.track.lane].move([move])
            for cache in caches.values() if inside else []:
                cache.rows = [None if t in leaver.tracks else t for t in cache.rows]
        scheduler.schedule()
        for lane, table in scheduler.tables.items():
            caches[lane].write(table)
            caches[lane].check(table)
            held = [*table.running, *table.entering]
            assert len(held) <= table.capacity
            assert sum(track.length for track in held) <= table.budget


def test_first_come_first_served() -> None:
    scheduler = Scheduler(make_tables(4, 4), max_waiting=2)
    first, big, small = make_sequence(3), make_sequence(3), make_sequence(1)
    scheduler.add(first)
    assert scheduler.schedule().prefill is first
    scheduler.settle()
    scheduler.add(big)
    scheduler.add(small)
    assert scheduler.schedule().prefill is None  # small would fit, but big came first
    scheduler.remove(first)
    assert scheduler.schedule().prefill is big


def test_queue_is_bounded() -> None:
    scheduler = Scheduler(make_tables(1, 1), max_waiting=1)
    scheduler.add(make_sequence(1))
    with pytest.raises(BusyError, match="1 requests are waiting"):
        scheduler.add(make_sequence(1))


def test_the_token_budget_counts_what_rows_may_grow_to() -> None:
    scheduler = Scheduler(make_tables(9, 9, budget=2 * LENGTH), max_waiting=9)
    scheduler.add(make_sequence(2))
    scheduler.add(make_sequence(1))
    assert scheduler.schedule().prefill is not None
    scheduler.settle()
    assert scheduler.schedule().prefill is None  # rows are free, memory is not
