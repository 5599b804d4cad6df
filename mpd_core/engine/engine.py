"""One engine, one worker: schedule, run, postprocess; visitors submit requests and get streams."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch

from mpd_core.engine.build import EngineOptions, Parts, build
from mpd_core.engine.pace import Pace
from mpd_core.engine.plan import method_names
from mpd_core.engine.processor import RequestProcessor, read_beginnings
from mpd_core.engine.records import Reply, next_tokens
from mpd_core.engine.remotes import Remotes
from mpd_core.engine.runner import StepOutput
from mpd_core.engine.scheduler import Scheduler
from mpd_core.engine.sequence import CacheRow, Sequence
from mpd_core.engine.status import release, report
from mpd_core.engine.stream import Stream
from mpd_core.errors import EngineError
from mpd_core.models.threads import run_in_fresh_thread
from mpd_core.packs import Pack
from mpd_core.remote.expert import RemoteAnswer
from mpd_core.request import GenerationRequest
from mpd_core.trace import FinishReason, Trace

if TYPE_CHECKING:
    from typing_extensions import Unpack

log = logging.getLogger(__name__)

MAX_WAITING = 64
IDLE_SECONDS = 0.05  # how long a turn waits for servers before it looks for newcomers
REST_SECONDS = 2.0
"""How long nobody may ask for anything before memory is given back."""


class Engine:
    """Runs every request's experts, and its PCM, as rows of one batched forward a step."""

    def __init__(self, pack: Pack, parts: Parts) -> None:
        self.pack = pack
        self.info = parts.info
        self.methods = method_names(pack)
        self._runner = parts.runner
        self._pace = Pace.of(parts.runner.lanes)
        self._remotes = Remotes(parts.remotes)
        self._processor = RequestProcessor(pack, parts)
        self._replies: dict[Sequence, Reply] = {}
        self._wake = threading.Condition()
        self._worker: threading.Thread | None = None
        self._worker_pid = 0
        self._closed = False
        self._start_over("cancelled")

    @classmethod
    def open(cls, pack: Pack, **options: Unpack[EngineOptions]) -> Engine:
        """Obtain a pack's models, load them and make an engine.

        Options are described in ``EngineOptions``, errors in ``build``.
        """
        engine = cls(pack, run_in_fresh_thread(build, pack, **options))
        if options.get("warm") and engine.info.device == "cpu":
            parts = (engine._processor, engine._runner, engine._scheduler)
            run_in_fresh_thread(read_beginnings, pack, *parts)
        release()
        return engine

    def submit(self, request: GenerationRequest) -> Stream:
        """Queue a request and return its stream at once.

        Raises:
            RequestError: unknown pole or method, or a prompt that is too long.
            BusyError: the queue is full.
            EngineError: the engine is closed.
        """
        sequence = self._processor.sequence(request)
        stream = Stream(
            tuple(call.name for call in sequence.plan.experts),
            cancel=lambda: self._cancel(sequence),
            assemble=lambda *parts: self._processor.trace(sequence, *parts),
            ahead=lambda: self._ahead(sequence),
        )
        reply = Reply(sequence, stream, self._processor)
        with self._wake:
            if self._closed:
                raise EngineError("The engine is closed.")
            self._scheduler.add(sequence)
            self._replies[sequence] = reply
            self._start_worker()
            self._wake.notify()
        return stream

    def generate(self, request: GenerationRequest) -> Trace:
        """Run a request to its end; errors as ``submit`` and ``Stream.__iter__``."""
        with self.submit(request) as stream:
            return stream.result()

    def status(self) -> dict[str, Any]:
        """Models with their kernels and rows, requests, and memory, as plain values."""
        now = {"threads_now": self._pace.threads}
        return {**asdict(self.info), **now, **report(self._runner, self._scheduler)}

    def close(self) -> None:
        """End every request and the worker."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        if self._worker and self._worker_pid == os.getpid():
            self._worker.join()
        self._remotes.close()
        atexit.unregister(self.close)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start_worker(self) -> None:
        # Per process: a fork (ZeroGPU runs each call in one) has the engine, but no threads.
        if self._worker_pid != os.getpid():
            self._worker_pid = os.getpid()
            self._worker = threading.Thread(target=self._work, name="mpd-engine", daemon=True)
            self._worker.start()
            atexit.register(self.close)  # torch's own threads must not be cut off mid-step

    def _work(self) -> None:
        with torch.inference_mode():
            while not self._closed:
                try:
                    self._turn()
                # This batch is lost; the engine and its queue are not. A tokenizer's panic, which
                # comes from Rust, is no Exception.
                except BaseException as error:
                    log.exception("a turn of the engine failed")
                    self._start_over(EngineError(f"The model failed: {error}. Try again."))
        self._start_over("cancelled")

    def _turn(self) -> None:
        with self._wake:
            if not self._wake.wait_for(self._has_work, REST_SECONDS):
                self._runner.rest(self._tables)
                self._wake.wait_for(self._has_work)
            for sequence in self._scheduler.everyone():
                if sequence.cancelled:
                    self._end(sequence, "cancelled")
            schedule = self._scheduler.schedule()
        if schedule.prefill:
            self._runner.prefill(self._tables)
        ready = [sequence for sequence in schedule.running if self._remotes.ready(sequence)]
        if ready:
            self._step(schedule.running, ready)
        elif not schedule.prefill:
            self._remotes.wait(IDLE_SECONDS)
        if schedule.prefill and schedule.prefill.prefilled:
            with self._wake:
                self._scheduler.finish_prefill()
            self._remotes.ask([schedule.prefill])

    def _has_work(self) -> bool:
        return self._closed or not self._scheduler.idle

    def _step(self, running: tuple[Sequence, ...], ready: list[Sequence]) -> None:
        answers: dict[CacheRow, RemoteAnswer] = {}
        for sequence in ready:
            with self._alone(sequence):
                answers |= self._remotes.take(sequence)
        running = tuple(sequence for sequence in running if sequence in self._replies)
        ready = [sequence for sequence in ready if sequence in self._replies]
        with self._pace.step(sum(len(sequence.rows) for sequence in running)):
            for alike in self._runner.step(running, answers, self._tables):
                self._advance(alike)
        self._remotes.ask(sequence for sequence in ready if sequence in self._replies)

    @contextmanager
    def _alone(self, sequence: Sequence) -> Iterator[None]:
        """One request's trouble ends only that request."""
        try:
            yield
        except EngineError as error:
            self._end(sequence, error)
        except BaseException as error:  # a tokenizer's panic is no Exception
            log.exception("a request failed")
            self._end(sequence, EngineError(f"The request failed: {error}. Try again."))

    def _advance(self, output: StepOutput) -> None:
        """Choose the next token of each of these sequences, and tell its stream."""
        replies = [self._replies[sequence] for sequence in output.sequences]
        tokens = next_tokens(output.distribution.merged, replies)
        every = output.distribution.describe(tokens, self.pack.spec.decode.top_k_recorded)
        for reply, stats, missing in zip(replies, every, output.missing, strict=True):
            with self._alone(reply.sequence):
                if finish := reply.add(stats, missing):
                    self._end(reply.sequence, finish)

    def _end(self, sequence: Sequence, reason: FinishReason | EngineError) -> None:
        with self._wake:
            keep = not isinstance(reason, EngineError)
            self._runner.compact(self._scheduler.remove(sequence, keep=keep), self._tables)
            self._remotes.forget(sequence)
            self._replies.pop(sequence).stream.put(reason)

    def _start_over(self, reason: FinishReason | EngineError) -> None:
        """End every request without trusting any state, and begin with empty tables."""
        with self._wake:
            replies, self._replies = self._replies, {}
            self._tables = self._runner.tables()
            self._scheduler = Scheduler(self._tables, MAX_WAITING)
        for sequence, reply in replies.items():
            self._remotes.forget(sequence)
            reply.stream.put(reason)

    def _cancel(self, sequence: Sequence) -> None:
        sequence.cancelled = True  # the worker ends it before its next step

    def _ahead(self, sequence: Sequence) -> int:
        with self._wake:
            return self._scheduler.ahead(sequence)
