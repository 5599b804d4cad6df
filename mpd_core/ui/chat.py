"""What the server remembers of one visitor: the conversation, and the reply being written."""

from __future__ import annotations

import threading
import time
import uuid
import weakref
from typing import TYPE_CHECKING, Literal

from mpd_core.request import GenerationRequest, Message
from mpd_core.trace import StepRecord, Trace

if TYPE_CHECKING:
    from mpd_core.engine import Stream

Status = Literal["waiting", "streaming", "done", "refused", "failed"]
_OPEN = ("waiting", "streaming")


class Run:
    """One reply: what was asked, the steps so far, and how it ended.

    A page's Stop and the generator that writes the reply run in different threads; whoever ends
    the run first decides how it ended, and ending it again changes nothing.
    """

    def __init__(self, request: GenerationRequest, turn: int) -> None:
        self.id = uuid.uuid4().hex
        self.request = request
        self.turn = turn
        self.experts: tuple[str, ...] = ()
        self.steps: list[StepRecord] = []
        self.trace: Trace | None = None
        self.status: Status = "waiting"
        self.reason = ""
        self.stopped = False
        """Whether the visitor stopped it: then the page has its last frame."""
        self.started = time.monotonic()
        self.first_step: float | None = None
        self.last_step: float | None = None
        self._claimed = False
        self._stream: Stream | None = None
        self._lock = threading.Lock()

    @property
    def open(self) -> bool:
        """Whether the reply is still awaited or being written."""
        return self.status in _OPEN

    @property
    def prompt(self) -> str:
        return self.request.messages[-1].content

    @property
    def text(self) -> str:
        return "".join(step.text for step in self.steps)

    def claim(self) -> bool:
        """True for the one generator that may write this reply, unless it was stopped before."""
        with self._lock:
            first, self._claimed = not self._claimed, True
            return first and self.open

    @property
    def claimed(self) -> bool:
        return self._claimed

    def attach(self, stream: Stream) -> None:
        """Remember the engine's stream, so that ``close`` can cancel it from another thread."""
        with self._lock:
            self._stream = stream
            late = not self.open
        if late:
            stream.cancel()

    def add(self, step: StepRecord) -> None:
        """Take one more step, unless the run has ended."""
        with self._lock:
            if not self.open:
                return
            self.status = "streaming"
            self.last_step = time.monotonic()
            self.first_step = self.first_step or self.last_step
            self.steps.append(step)

    def close(self, status: Status, reason: str) -> bool:
        """End the run; False if it had ended already."""
        with self._lock:
            if not self.open:
                return False
            self.status, self.reason = status, reason
            stream = self._stream
        if stream is not None:
            stream.cancel()
        return True


KEPT_SECONDS = 3600.0
"""How long a conversation is remembered after its visitor was last seen."""


class Chat:
    """A visitor's conversation. Lives in ``gr.State``, which copies an empty one per session.

    Gradio's own time to live counts from when a state was last an output, which this one never is.
    """

    def __init__(self) -> None:
        self.used = time.monotonic()
        self.id = ""
        self.messages: tuple[Message, ...] = ()
        self.run: Run | None = None

    @property
    def busy(self) -> bool:
        """Whether a reply is being written; one that still waits in the queue may be replaced."""
        return self.run is not None and self.run.open and self.run.claimed

    def start(self, request: GenerationRequest) -> Run:
        """Begin a turn; a run that was never taken up is dropped."""
        if self.run is not None:
            self.run.close("done", "cancelled")
        self.id = self.id or uuid.uuid4().hex
        self.used = time.monotonic()
        with _LOCK:
            _CHATS.add(self)
        self.run = Run(request, len(self.messages) // 2)
        return self.run

    def keep(self, run: Run) -> None:
        """Put a finished or stopped reply into the conversation; an empty one is not kept."""
        self.used = time.monotonic()
        if run is self.run and run.text.strip():
            self.messages = (*run.request.messages, Message("assistant", run.text))

    def clear(self) -> None:
        """Forget everything; a reply that is being written is cancelled."""
        if self.run is not None:
            self.run.close("done", "cancelled")
        self.id, self.messages, self.run = uuid.uuid4().hex, (), None


_CHATS: weakref.WeakSet[Chat] = weakref.WeakSet()
_LOCK = threading.Lock()


def expire(now: float | None = None, *, after: float = KEPT_SECONDS) -> int:
    """Forget every conversation that nobody has used for so many seconds.

    Args:
        now: as ``time.monotonic`` tells it; default: it is asked.
        after: one in which a reply is being written is in use.

    Returns:
        How many were forgotten.
    """
    now = time.monotonic() if now is None else now
    with _LOCK:
        old = [chat for chat in _CHATS if now - chat.used >= after and not chat.busy]
        for chat in old:
            _CHATS.discard(chat)
    for chat in old:
        chat.clear()
    return len(old)


def expire_for_ever(every: float = 60.0, *, after: float = KEPT_SECONDS) -> None:
    """Go on forgetting old conversations, in a thread that does not keep the process alive."""

    def watch() -> None:
        while True:
            time.sleep(every)
            expire(after=after)

    threading.Thread(target=watch, name="mpd-expiry", daemon=True).start()
