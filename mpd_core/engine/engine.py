"""One engine, one worker: schedule, run, postprocess; visitors submit requests and get streams."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch

from mpd_core.engine.build import EngineInfo, build
from mpd_core.engine.intake import Intake
from mpd_core.engine.records import finish_reason, make_step
from mpd_core.engine.runner import Distribution, Runner
from mpd_core.engine.scheduler import RowTable, Scheduler
from mpd_core.engine.sequence import Sequence
from mpd_core.engine.stream import Stream
from mpd_core.errors import EngineError
from mpd_core.experts import method_names
from mpd_core.merging import choose
from mpd_core.packs import Pack, Precision, Quantize
from mpd_core.prompts import StreamDecoder
from mpd_core.request import GenerationRequest
from mpd_core.trace import FinishReason, Trace

log = logging.getLogger(__name__)

MAX_WAITING = 64


@dataclass(eq=False)
class _Job:
    """A sequence with what only the worker needs."""

    sequence: Sequence
    stream: Stream
    decoder: StreamDecoder
    generator: torch.Generator
    seen: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))


class Engine:
    """Runs every request's experts, and its PCM, as rows of one batched forward a step."""

    def __init__(self, pack: Pack, runner: Runner, tokenizer: Any, info: EngineInfo) -> None:
        self.pack = pack
        self.info = info
        self.methods = method_names(pack)
        self._runner = runner
        self._tokenizer = tokenizer
        self._intake = Intake(pack, tokenizer, runner.lanes, info)
        self._jobs: dict[Sequence, _Job] = {}
        self._wake = threading.Condition()
        self._worker: threading.Thread | None = None
        self._worker_pid = 0
        self._closed = False
        self._start_over("cancelled")

    @classmethod
    def open(
        cls,
        pack: Pack,
        *,
        quantize: Quantize | None = None,
        precision: Precision | None = None,
        device: str | None = None,
        progress: Callable[[str], None] = lambda _: None,
    ) -> Engine:
        """Obtain the pack's models, load them and make an engine.

        Args:
            pack: what to run.
            quantize: overrides the pack's ``base.quantize``.
            precision: overrides the pack's ``base.precision``.
            device: ``cpu`` or ``cuda``; default: a GPU where there is one.
            progress: is told in sentences what is being done.

        Raises:
            ModelSourceError: a model cannot be obtained.
            PackError: a model, an adapter or the head does not fit.
            RequestError: a device or a precision that this machine does not have.
        """
        # In a thread of its own that ends: OpenMP keeps a pool of threads for every thread that ran
        # a product, and once there are more than cores, each product waits for sleeping threads.
        # With the worker's pool alone, a step takes half the time on two cores.
        with ThreadPoolExecutor(max_workers=1) as loader:
            runner, tokenizer, info = loader.submit(
                build,
                pack,
                quantize=quantize,
                precision=precision,
                device=device,
                progress=progress,
            ).result()
        return cls(pack, runner, tokenizer, info)

    def submit(self, request: GenerationRequest) -> Stream:
        """Queue a request and return its stream at once.

        Raises:
            RequestError: unknown pole or method, or a prompt that is too long.
            BusyError: the queue is full.
            EngineError: the engine is closed.
        """
        sequence = self._intake.sequence(request)
        stream = Stream(
            tuple(row.name for row in sequence.plan.experts),
            cancel=lambda: self._cancel(sequence),
            assemble=lambda *parts: self._intake.trace(sequence, *parts),
        )
        generator = torch.Generator().manual_seed(request.sampling.seed)
        job = _Job(sequence, stream, StreamDecoder(self._tokenizer), generator)
        with self._wake:
            if self._closed:
                raise EngineError("The engine is closed.")
            self._scheduler.add(sequence)
            self._jobs[sequence] = job
            self._start_worker()
            self._wake.notify()
        return stream

    def generate(self, request: GenerationRequest) -> Trace:
        """Run a request to its end; errors as ``submit`` and ``Stream.__iter__``."""
        with self.submit(request) as stream:
            for _ in stream:
                pass
            return stream.trace()

    def close(self) -> None:
        """End every request and the worker."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        if self._worker and self._worker_pid == os.getpid():
            self._worker.join()
        atexit.unregister(self.close)

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
                except Exception as error:  # this batch is lost; the engine and its queue are not
                    log.exception("a turn of the engine failed")
                    self._start_over(EngineError(f"The model failed: {error}. Try again."))
        self._start_over("cancelled")

    def _turn(self) -> None:
        with self._wake:
            self._wake.wait_for(lambda: self._closed or not self._scheduler.idle)
            self._drop_cancelled()
            schedule = self._scheduler.schedule()
        if schedule.prefill:
            self._runner.prefill(self._tables)
        if schedule.running:
            said = self._runner.step(schedule.running, self._tables)
            self._postprocess(schedule.running, said)
        with self._wake:
            if schedule.prefill and schedule.prefill.prefilled:
                self._scheduler.settle()

    def _postprocess(self, running: tuple[Sequence, ...], said: list[Distribution]) -> None:
        for sequence, distribution in zip(running, said, strict=True):
            finish: FinishReason | EngineError | None
            try:
                finish = self._advance(sequence, distribution)
            except Exception as error:  # one request's trouble ends only that request
                log.exception("a request failed")
                finish = EngineError(f"The request failed: {error}. Try again.")
            if finish:
                with self._wake:
                    self._end(sequence, finish)

    def _advance(self, sequence: Sequence, said: Distribution) -> FinishReason | None:
        job, sampling = self._jobs[sequence], sequence.request.sampling
        token = choose(said.merged, sampling, job.seen.to(said.merged.device), job.generator)
        sequence.tokens.append(token)
        job.seen = torch.tensor(sequence.tokens)
        finish = finish_reason(sequence.tokens, sampling, self._intake.end_of_turn)
        text = job.decoder.push(token, last=finish is not None)
        index, top_k = len(sequence.tokens) - 1, self.pack.spec.decode.top_k_recorded
        experts = job.stream.experts
        job.stream.put(make_step(index, token, text, experts, said, self._tokenizer, top_k))
        return finish

    def _end(self, sequence: Sequence, reason: FinishReason | EngineError) -> None:
        self._runner.tidy(self._scheduler.remove(sequence), self._tables)
        self._jobs.pop(sequence).stream.put(reason)

    def _start_over(self, reason: FinishReason | EngineError) -> None:
        """End every request without trusting any state, and begin with empty tables."""
        with self._wake:
            jobs, self._jobs = self._jobs, {}
            self._tables = tuple(RowTable(lane.cache.capacity) for lane in self._runner.lanes)
            self._scheduler = Scheduler(self._tables, MAX_WAITING)
        for job in jobs.values():
            job.stream.put(reason)

    def _cancel(self, sequence: Sequence) -> None:
        sequence.cancelled = True  # the worker ends it before its next step

    def _drop_cancelled(self) -> None:
        for sequence in self._scheduler.everyone():
            if sequence.cancelled:
                self._end(sequence, "cancelled")
