"""What the page's buttons do. Knows chats, runs and frames; knows no components."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import gradio as gr

from mpd_core.errors import BusyError, MPDError, RequestError
from mpd_core.request import GenerationRequest, Message
from mpd_core.trace import Trace
from mpd_core.ui import view, zerogpu
from mpd_core.ui.chat import Chat, Run

if TYPE_CHECKING:
    from mpd_core.engine import Engine

LOG = logging.getLogger(__name__)

FRAME_SECONDS = 0.12
"""Least time between two frames of a streamed reply: more often costs time and shows no more."""


class Handlers:
    """The events of one page over one engine; holds nothing of a visitor."""

    def __init__(self, engine: Engine, produce: zerogpu.Producer) -> None:
        self.engine = engine
        self.produce = produce
        self.dimensions = engine.pack.space.dimensions

    def begin(self, chat: Chat, prompt: str, *settings: Any) -> view.Frame:
        """Check what was asked and show it; the reply itself is written by ``write``."""
        if chat.busy:
            return view.idle(chat, "A reply is being written: press Stop first, or wait for it.")
        try:
            request = self.request(chat, prompt, *settings)
        except RequestError as error:
            if chat.run is not None:
                chat.run.close("refused", str(error))
            chat.run = None
            return view.idle(chat, str(error))
        return self.frame(chat, chat.start(request))

    def request(self, chat: Chat, prompt: str, *settings: Any) -> GenerationRequest:
        """The request that the page's controls describe.

        Raises:
            RequestError: a value out of bounds, or a field left empty.
        """
        count = len(self.dimensions)
        poles, (method, space, strength, tokens, temperature, top_p, penalty, dry, seed) = (
            settings[:count],
            settings[count:],
        )
        names = (dimension.name for dimension in self.dimensions)
        pack = self.engine.pack
        preference = pack.space.select(dict(zip(names, poles, strict=True)))
        dial = None if strength == pack.spec.decode.strength else strength
        return GenerationRequest(
            messages=(*chat.messages, Message("user", prompt or "")),
            preference=preference.code,
            method=method,
            **pack.merging(preference, space, dial),
            sampling=pack.spec.decode.sampling(
                max_new_tokens=whole("Longest reply", tokens),
                temperature=temperature,
                top_p=top_p,
                repetition_penalty=penalty,
                dry_multiplier=dry,
                seed=whole("Seed", 0 if seed is None else seed),
            ),
        )

    def write(self, chat: Chat) -> Iterator[tuple[Any, Any]]:
        """Stream the reply that ``begin`` announced: frames for the page, and the prompt box.

        Closing this generator (a closed tab does) cancels the reply.
        """
        run = chat.run
        if run is None or not run.claim():
            yield gr.skip(), gr.skip()  # without a value Gradio would empty both
            return
        try:
            yield from self._stream(chat, run)
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
        if chat.run is run and not run.stopped:
            yield self.frame(chat, run), gr.skip()

    def _stream(self, chat: Chat, run: Run) -> Iterator[tuple[Any, Any]]:
        shown = 0.0
        pieces = self._open(run)
        try:
            for piece in pieces:
                if not run.open:
                    return
                if isinstance(piece, tuple):
                    run.experts = piece
                    yield self.frame(chat, run), ""  # accepted: the prompt box can be emptied
                elif isinstance(piece, Trace):
                    run.trace = piece
                    if run.close("done", piece.finish_reason):
                        chat.keep(run)
                else:
                    run.add(piece)
                    if time.monotonic() - shown > FRAME_SECONDS and run.open:
                        shown = time.monotonic()
                        yield self.frame(chat, run), gr.skip()
        finally:
            pieces.close()  # type: ignore[attr-defined]

    def _open(self, run: Run) -> Iterator[zerogpu.Piece]:
        if zerogpu.active():
            return self.produce(run.request)
        return self.produce(run.request, run.attach)

    def stop(self, chat: Chat) -> Any:
        """End the reply at once and keep what is there, whatever the engine is busy with."""
        run = chat.run
        if run is None or not run.close("done", "cancelled"):
            return gr.skip()
        run.stopped = True
        chat.keep(run)
        return self.frame(chat, run)

    def clear(self, chat: Chat) -> view.Frame:
        """A new conversation."""
        chat.clear()
        return view.idle(chat)

    def settle(self, chat: Chat, box: str) -> Any:
        """Give the prompt back after a failure, unless something else was typed meanwhile."""
        run = chat.run
        lost = run is not None and run.status in ("refused", "failed") and not (box or "").strip()
        return run.prompt if run is not None and lost else gr.skip()

    def frame(self, chat: Chat, run: Run) -> view.Frame:
        info = self.engine.info
        return view.frame(chat, run, self.engine.pack, info.device, info.precision)


def whole(label: str, value: object) -> int:
    """A number from the page as an integer.

    Raises:
        RequestError: it is empty, not a number, or has a fraction.
    """
    try:
        number = float(value)  # type: ignore[arg-type]
        if number == int(number):
            return int(number)
    except (TypeError, ValueError, OverflowError):
        pass
    raise RequestError(f"{label} is {value!r}: give a whole number.")
