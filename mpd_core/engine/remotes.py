"""Experts on other machines, asked while the models here go on with everyone else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from mpd_core.engine.sequence import CacheRow, Sequence
from mpd_core.remote.expert import RemoteAnswer, RemoteExpert

CALLS_AT_ONCE = 8  # an expert: sequences that are out of step with each other need their own


@dataclass
class _Question:
    """A call that is out, the place of one row in it, and whether others share it."""

    call: Future[list[RemoteAnswer]]
    place: int
    shared: bool


class Remotes:
    """The questions that are out, at most one a remote row."""

    def __init__(self, experts: Mapping[str, RemoteExpert]) -> None:
        self._experts = experts
        self._pending: dict[CacheRow, _Question] = {}
        workers = CALLS_AT_ONCE * max(1, len(experts))
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="mpd-remote")

    def ask(self, sequences: Iterable[Sequence]) -> None:
        """Ask for the next token of these sequences: one call for all rows of an expert."""
        asked: dict[str, list[tuple[CacheRow, tuple[int, ...]]]] = {}
        for sequence in sequences:
            for row in sequence.remote:
                asked.setdefault(row.call.name, []).append((row, sequence.ids(row)))
        for questions in asked.values():
            self._call(questions)

    def _call(self, asked: list[tuple[CacheRow, tuple[int, ...]]]) -> None:
        expert = self._experts[asked[0][0].call.name]
        call = self._pool.submit(expert.log_probs, [ids for _, ids in asked])
        for place, (row, _) in enumerate(asked):
            self._pending[row] = _Question(call, place, shared=len(asked) > 1)

    def ready(self, sequence: Sequence) -> bool:
        """Whether all of its servers have answered, well or not.

        A shared call that failed is asked again alone: perhaps only a neighbour's prompt is too
        long for the server, and one request's trouble ends only that request.
        """
        for row in sequence.remote:
            question = self._pending[row]
            if question.shared and question.call.done() and question.call.exception():
                self._call([(row, sequence.ids(row))])
        return all(self._pending[row].call.done() for row in sequence.remote)

    def take(self, sequence: Sequence) -> dict[CacheRow, RemoteAnswer]:
        """The answers for its remote rows.

        Raises:
            RemoteError: an expert could not be asked.
        """
        questions = {row: self._pending.pop(row) for row in sequence.remote}
        return {row: q.call.result()[q.place] for row, q in questions.items()}

    def wait(self, seconds: float) -> None:
        """Until some answer comes that is not here yet, but no longer than this."""
        calls = {question.call for question in self._pending.values()}
        wait([call for call in calls if not call.done()], seconds, return_when=FIRST_COMPLETED)

    def forget(self, sequence: Sequence) -> None:
        """A sequence has ended: its answers are not waited for."""
        for row in sequence.remote:
            self._pending.pop(row, None)

    def close(self) -> None:
        """End calls that are under way and close all connections."""
        for expert in self._experts.values():
            expert.close()
        self._pool.shutdown(cancel_futures=True)
