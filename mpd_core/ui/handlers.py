"""What the page's events do. Knows runs and frames; knows no components."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import gradio as gr

from mpd_core.errors import BusyError, MPDError, RequestError
from mpd_core.trace import Trace
from mpd_core.ui import ask, opening, zerogpu
from mpd_core.ui.runs import Frame, Run, Runs, frame

if TYPE_CHECKING:
    from mpd_core.ui.opening import Host

LOG = logging.getLogger(__name__)
T = TypeVar("T")

FRAME_SECONDS = 0.12
"""Least time between two frames of a streamed reply: more often costs time and shows no more."""

LINGER_SECONDS = 15.0
"""How long a reply is written on for a page that went, as at a reload, and has not asked since."""

QUEUED_SECONDS = 5.0
"""How long one that has not begun keeps its place for such a page: others wait behind it."""

SILENT_SECONDS = 1.0
"""How long nothing may come before a reader is told so."""


class Handlers:
    """The events of one page over one engine; holds nothing of a visitor but open replies."""

    def __init__(self, engine: Host, produce: zerogpu.Producer) -> None:
        self.engine = engine
        self.produce = produce
        self.runs = Runs()

    def write(self, asked: str) -> Iterator[Any]:
        """Stream the replies that a page asks for, side by side; "" asks for none.

        Closing this generator (a closed tab does) cancels them, unless the page comes back soon.
        """
        if not asked:
            yield gr.skip()  # without a value Gradio would empty the output
            return
        try:
            runs = ask.runs(asked, self.engine.pack)
        except RequestError as error:
            yield {"runs": {}, "refused": str(error)}
            return
        for run in runs:
            if not self.runs.add(run):
                run.close("done", "cancelled")
        shown, writing = 0.0, self._follow_all([run for run in runs if run.open])
        try:
            for _ in writing:
                if time.monotonic() - shown > FRAME_SECONDS:
                    shown = time.monotonic()
                    yield frame(runs)
        except GeneratorExit:
            _write_on(runs, writing)
            raise
        except BaseException:  # whatever went wrong, no reply is left to run on
            _cancel(runs)
            raise
        _cancel(runs)
        yield frame(runs)

    def _follow_all(self, runs: Sequence[Run]) -> Iterator[None]:
        """Follow every run at once; where a GPU is borrowed for each reply, one after the other."""
        if zerogpu.active():
            for run in runs:
                yield from self._follow(run)
        else:
            yield from together([self._follow(run) for run in runs])

    def _follow(self, run: Run) -> Iterator[None]:
        """Take a run's steps as they come; at its end the run is closed, however it ended."""
        pieces = self.produce(run.request, run.attach)
        try:
            for piece in pieces:
                if not run.open:
                    return
                if isinstance(piece, tuple):
                    run.experts = piece
                elif isinstance(piece, Trace):
                    run.finish(piece)
                    run.close("done", piece.finish_reason)
                else:
                    run.add(piece)
                yield
        except (RequestError, BusyError) as error:
            run.close("refused", str(error))
        except MPDError as error:
            run.close("failed", str(error))
        except gr.Error as error:  # ZeroGPU's: no GPU left for this visitor
            run.close("failed", str(error.message))
        except Exception:
            LOG.exception("a reply failed")
            run.close("failed", "The reply failed inside the app: its log says why. Try again.")
        finally:
            run.close("done", "cancelled")
            pieces.close()  # type: ignore[attr-defined]

    def stop(self, listed: str) -> Frame:
        """End replies at once and keep what is there, whatever the engine is busy with."""
        try:
            return frame(self.runs.stop(ask.names(listed)))
        except RequestError as error:
            return {"runs": {}, "refused": str(error)}

    def fetch(self, listed: str) -> Frame:
        """All that is known of replies that a page missed a part of, and of the engine."""
        try:
            wanted = ask.names(listed)
        except RequestError as error:
            return {"runs": {}, "refused": str(error)}
        known = self.runs.find(wanted)
        for run in known:
            run.wanted = time.monotonic()
        found = frame(known, whole=True)
        lost = [name for name in wanted if name not in found["runs"]]
        return {**found, "lost": lost, "engine": opening.describe(self.engine)}


def _cancel(runs: Sequence[Run]) -> None:
    """End those that are still being written."""
    for run in runs:
        run.close("done", "cancelled")


def _write_on(runs: Sequence[Run], writing: Iterator[None]) -> None:
    """Go on with replies whose page went, while it may come back and ask for them."""
    if zerogpu.active():  # a visitor's own quota: not spent on what may never be read
        _cancel(runs)
        return
    for run in runs:
        run.wanted = time.monotonic()

    def watch() -> None:
        while left := [run for run in runs if run.open]:
            for run in left:
                queued = run.status == "waiting"
                patience = min(QUEUED_SECONDS, LINGER_SECONDS) if queued else LINGER_SECONDS
                if time.monotonic() - run.wanted > patience:
                    run.close("done", "cancelled")
            time.sleep(0.2)

    threading.Thread(target=deque, args=(writing, 0), daemon=True).start()
    threading.Thread(target=watch, daemon=True).start()


def together(sources: Sequence[Iterator[T]]) -> Iterator[T | None]:
    """Run iterators in a thread each, and yield what any of them yields, as it comes.

    Where nothing comes for a while it yields None: only between two yields does Gradio notice that
    a page has gone, and a reply in a queue would keep its place until its first token.

    Raises:
        Exception: whatever a source raised; the others run on.
    """
    came: queue.SimpleQueue[tuple[T | None, bool, BaseException | None]] = queue.SimpleQueue()

    def drain(source: Iterator[T]) -> None:
        failed = None
        try:
            for piece in source:
                came.put((piece, True, None))
        except BaseException as error:
            failed = error
        came.put((None, False, failed))

    for source in sources:
        threading.Thread(target=drain, args=(source,), daemon=True).start()
    left = len(sources)
    while left:
        try:
            piece, more, failed = came.get(timeout=SILENT_SECONDS)
        except queue.Empty:
            yield None
            continue
        if failed is not None:
            raise failed
        if more:
            yield piece
        else:
            left -= 1
