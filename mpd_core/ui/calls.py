"""Calls over plain HTTP that Gradio answers with a traceback in its log, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gradio.route_utils import FnIndexInferError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mpd_core.ui.ask import MAX_BYTES

if TYPE_CHECKING:
    import gradio as gr
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

CALL = "/gradio_api/call/"
BY_NAME = f"{CALL}v2/"
"""Where arguments come by their names."""
UPLOADS = "/gradio_api/upload"
"""Goes to the disk; every other body is held in memory, whole."""
MOST_BYTES = 3 * MAX_BYTES
"""Of a body: the most that a page sends, where each character is an escape."""


class Calls:
    """Refuses bodies beyond all bounds, and the stream of a call that there is not."""

    def __init__(self, app: ASGIApp, page: gr.Blocks) -> None:
        self.app, self.page = app, page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        uploaded = scope["path"].startswith(UPLOADS)
        if not uploaded and _told(scope) > MOST_BYTES:
            refused = _detail(413, f"The body has over {MOST_BYTES:,} bytes: send less.")
            await refused(scope, receive, send)
        elif self._is_stray(scope):
            refused = _detail(404, "There is no such call, or all of it has been read.")
            await refused(scope, receive, send)
        else:
            await self.app(scope, receive if uploaded else _bounded(receive), send)

    def _is_stray(self, scope: Scope) -> bool:
        """Whether it asks for the stream of a call that is not there."""
        path = scope["path"]
        parts = path.removeprefix(BY_NAME).removeprefix(CALL).strip("/").split("/")
        streamed = scope["method"] == "GET" and path.startswith(CALL) and len(parts) == 2
        return streamed and not self._is_known(parts[1])

    def _is_known(self, event: str) -> bool:
        queue: Any = self.page._queue
        waiting = queue.pending_event_ids_session
        return (
            event in queue.event_ids_to_events
            or event in queue.pending_messages_per_session
            or any(event in events for events in list(waiting.values()))
        )


def _told(scope: Scope) -> int:
    """How long a body is, as its sender says; 0 without a word."""
    length = dict(scope["headers"]).get(b"content-length", b"")
    return int(length[:18]) if length.isdigit() else 0


def _bounded(receive: Receive) -> Receive:
    """A body that comes in pieces, without a length that says how long it will be."""
    came = 0

    async def bounded() -> Message:
        nonlocal came
        message = await receive()
        came += len(message.get("body", b""))
        if came > MOST_BYTES:
            raise ValueError("a body beyond all bounds")  # which becomes status 400
        return message

    return bounded


def _unknown(_: Request, __: Exception) -> Response:
    return _detail(404, "There is no endpoint of this name: see ?view=api on the page.")


def _misnamed(request: Request, error: Exception) -> Response:
    """Of arguments by name Gradio looks one up, or complains in a TypeError, outside of any try."""
    if not request.url.path.startswith(BY_NAME):
        raise error
    if isinstance(error, KeyError):
        return _unknown(request, error)
    return _detail(422, " ".join(str(error).split()))


def _detail(status: int, sentence: str) -> Response:
    return JSONResponse({"detail": sentence}, status_code=status)


HANDLERS: dict[type[Exception], Callable[[Request, Exception], Response]] = {
    FnIndexInferError: _unknown,
    KeyError: _misnamed,
    TypeError: _misnamed,
}
