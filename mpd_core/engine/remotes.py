"""Experts on other machines, asked while the models here go on with everyone else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from mpd_core.engine.sequence import Sequence, Track
from mpd_core.experts.remote import RemoteAnswer, RemoteExpert

CALLS_AT_ONCE = 8  # an expert: sequences that are out of step with each other need their own


class Remotes:
    """The questions that are out, at most one a remote row."""

    def __init__(self, experts: Mapping[str, RemoteExpert]) -> None:
        self._experts = experts
        self._pending: dict[Track, tuple[Future[list[RemoteAnswer]], int]] = {}
        workers = CALLS_AT_ONCE * max(1, len(experts))
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="mpd-remote")

    def ask(self, sequences: Iterable[Sequence]) -> None:
        """Ask for the next token of these sequences: one call for all rows of an expert."""
        rows: dict[str, list[tuple[Track, tuple[int, ...]]]] = {}
        for sequence in sequences:
            for track in sequence.remote:
                rows.setdefault(track.row.name, []).append((track, sequence.ids(track)))
        for name, asked in rows.items():
            call = self._pool.submit(self._experts[name].log_probs, [ids for _, ids in asked])
            self._pending.update((track, (call, k)) for k, (track, _) in enumerate(asked))

    def ready(self, sequence: Sequence) -> bool:
        """Whether all of its servers have answered, well or not."""
        return all(self._pending[track][0].done() for track in sequence.remote)

    def take(self, sequence: Sequence) -> dict[Track, RemoteAnswer]:
        """The answers for its remote rows.

        Raises:
            RemoteError: an expert could not be asked.
        """
        calls = {track: self._pending.pop(track) for track in sequence.remote}
        return {track: call.result()[k] for track, (call, k) in calls.items()}

    def wait(self, seconds: float) -> None:
        """Until some answer comes, but no longer than this."""
        wait([call for call, _ in self._pending.values()], seconds, return_when=FIRST_COMPLETED)

    def forget(self, sequence: Sequence) -> None:
        """A sequence has ended: its answers are not waited for."""
        for track in sequence.remote:
            self._pending.pop(track, None)

    def close(self) -> None:
        """End calls that are under way and close all connections."""
        for expert in self._experts.values():
            expert.close()
        self._pool.shutdown(cancel_futures=True)
