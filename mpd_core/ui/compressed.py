"""Pages travel compressed: they hold this app's scripts, and Gradio compresses files alone."""

from __future__ import annotations

from starlette.middleware.gzip import GZipMiddleware
from starlette.types import Receive, Scope, Send


class CompressedPages(GZipMiddleware):
    """Answers to who asks for a page; events that stream are never held back to be compressed."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        wanted = dict(scope["headers"]).get(b"accept", b"") if scope["type"] == "http" else b""
        if b"text/html" in wanted:
            await super().__call__(scope, receive, send)
        else:
            await self.app(scope, receive, send)
