"""Rows stay dense and in the hands of their owners, whoever joins and leaves."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpd_core.engine.plan import BASE, PCM, ExpertCall, ExpertPlan
from mpd_core.engine.scheduler import Move, RowTable, Scheduler
from mpd_core.engine.sequence import CacheRow, Sequence, reuse_prefixes
from mpd_core.errors import BusyError
from mpd_core.request import GenerationRequest, Message

LENGTH = 10
REQUEST = GenerationRequest((Message("user", "hi"),), "A")


def make_sequence(experts: int, prompt: tuple[int, ...] = (1, 2, 3)) -> Sequence:
    rows = tuple(CacheRow(ExpertCall(f"e{k}"), prompt, LENGTH) for k in range(experts))
    return Sequence(
        REQUEST, ExpertPlan(()), rows, CacheRow(ExpertCall("pcm", PCM), prompt[:2], LENGTH)
    )


def make_tables(base: int, pcm: int, budget: int = 1000) -> dict[str, RowTable]:
    return {BASE: RowTable(base, budget, kept=4), PCM: RowTable(pcm, budget, kept=1)}


Text = tuple[int, ...]


class Cache:
    """What each row of a lane's cache holds, as a runner would carry out the moves."""

    def __init__(self, capacity: int) -> None:
        self.rows: list[Text] = [()] * capacity

    def write(self, table: RowTable) -> None:
        """Rows that enter take over what is cached, then read the rest of their prompts."""
        for place, row in enumerate(table.entering, start=len(table.running)):
            if row.cached_from:
                held = self.rows[table.place(row.cached_from)]
                assert held[: row.cached_len] == row.prompt[: row.cached_len]
            row.cached_from, row.filled = None, row.to_prefill
            self.rows[place] = row.prompt[:-1]

    def move(self, move: Move) -> None:
        assert self.rows[move.source][: move.row.filled] == move.row.prompt[:-1]
        self.rows[move.target] = self.rows[move.source]

    def check(self, table: RowTable) -> None:
        held = [*table.running, *table.entering]
        for place, row in enumerate(held):
            assert self.rows[place] == row.prompt[:-1]
        for row in table.kept:
            assert table.kept[row] >= len(held)
            assert self.rows[table.kept[row]] == row.prompt[:-1]
        assert len({table.kept[row] for row in table.kept}) == len(table.kept)


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_rows_follow_their_owners(data: st.DataObject) -> None:
    scheduler = Scheduler(make_tables(9, 3), max_waiting=100)
    caches = {BASE: Cache(9), PCM: Cache(3)}
    for _ in range(data.draw(st.integers(1, 30))):
        action = data.draw(st.sampled_from(["add", "finish prefill", "remove"]))
        if action == "add":
            prompt = data.draw(st.lists(st.integers(1, 2), min_size=2, max_size=6))
            scheduler.add(make_sequence(data.draw(st.integers(1, 4)), tuple(prompt)))
        elif action == "finish prefill":
            scheduler.finish_prefill()
        elif everyone := scheduler.everyone():
            leaver = data.draw(st.sampled_from(everyone))
            for move in scheduler.remove(leaver, keep=data.draw(st.booleans())):
                caches[move.row.lane].move(move)
        scheduler.schedule()
        for lane, table in scheduler.tables.items():
            caches[lane].write(table)
            caches[lane].check(table)
            held = [*table.running, *table.entering]
            assert len(held) <= table.capacity
            assert sum(row.length for row in [*held, *table.kept]) <= table.budget


def test_what_was_kept_is_lent_and_gives_way() -> None:
    table = RowTable(4, 160, kept=2)
    old, new = ((7, 8, 9, 1), (7, 8, 5, 2))

    def serve(prompt: tuple[int, ...]) -> CacheRow:
        row = CacheRow(ExpertCall("e"), prompt, LENGTH)
        table.admit([row])
        row.filled = row.to_prefill
        table.finish_prefill()
        return row

    table.free(serve(old), old)
    table.free(serve(old), old)
    assert [row.prompt for row in table.kept] == [old]  # once is enough
    second = serve(new)
    assert (second.cached_len, table.place(second.cached_from)) == (2, 3)
    table.free(second, new)
    third = serve((7, 8, 5, 2, 6))
    assert third.cached_len == 3
    table.free(third, third.prompt)
    assert [row.prompt for row in table.kept] == [old, third.prompt]  # instead of its beginning
    crowd = [serve((k, k)) for k in range(3)]
    assert [table.place(row) for row in table.kept] == [3]
    assert len({table.running.index(row) for row in crowd}) == 3
    table.free(crowd[0])
    assert len(table.kept) == 1  # an engine that does not trust a row does not keep it


def test_a_row_takes_no_more_than_its_trunk_did() -> None:
    """Its states come from there; what the trunk lacks, it could not go on from."""
    holder, trunk = (CacheRow(ExpertCall("e"), (1, 2, 3, 4, 5), LENGTH) for _ in range(2))
    newcomer = CacheRow(ExpertCall("e"), (1, 2, 3, 4, 6), LENGTH, trunk=trunk)
    for held in (0, 2, 4):
        trunk.cached_len, newcomer.cached_len = held, 0
        reuse_prefixes([newcomer], [holder])
        assert newcomer.cached_len == held


def test_first_come_first_served() -> None:
    scheduler = Scheduler(make_tables(4, 4), max_waiting=2)
    first, big, small = make_sequence(3), make_sequence(3), make_sequence(1)
    scheduler.add(first)
    assert scheduler.schedule().prefill is first
    scheduler.finish_prefill()
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
    scheduler.finish_prefill()
    assert scheduler.schedule().prefill is None  # rows are free, memory is not
