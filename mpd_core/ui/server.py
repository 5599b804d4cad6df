"""Launching the page: address, port, static files, and Gradio's switches."""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING, Any

import gradio as gr
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import Receive, Scope, Send

from mpd_core.errors import MPDError
from mpd_core.ui import assets, palette, zerogpu
from mpd_core.ui.calls import HANDLERS, Calls
from mpd_core.ui.layout import CONCURRENT_RUNS, build
from mpd_core.ui.opening import Opening
from mpd_core.ui.pages import use_own_head

if TYPE_CHECKING:
    from mpd_core.ui.opening import Host

DEFAULT_PORT = 7860
QUEUE_SIZE = 64


def serve(engine: Host, *, host: str | None = None, port: int | None = None) -> None:
    """Open the page over an engine and block until it is interrupted.

    The page is there while the engine is still being opened, except on ZeroGPU, where replies are
    written in forks of a process that has it.

    Args:
        host: address to listen on; default ``GRADIO_SERVER_NAME``, then this machine only.
        port: default ``GRADIO_SERVER_PORT``, then 7860.

    Raises:
        MPDError: the port is taken or not allowed, the address is not this machine's, or the
            engine cannot be opened.
    """
    if isinstance(engine, Opening) and zerogpu.active():
        engine.start()
        engine.wait()
    page, url = launch(engine, host=host, port=port)
    if isinstance(engine, Opening) and not engine.done:
        print(f"The page is at {url} while the model loads.", flush=True)
        engine.start()
        try:
            engine.wait()
        except BaseException:
            page.close(verbose=False)
            raise
    print(f"MPD Studio is ready: {url}", flush=True)
    page.block_thread()


def launch(
    engine: Host, *, host: str | None = None, port: int | None = None
) -> tuple[gr.Blocks, str]:
    """Like ``serve``, without blocking: the running page and its URL.

    Raises:
        MPDError: as ``serve``.
    """
    # A Space is reached from outside its container, anything else from this machine.
    usual = "0.0.0.0" if os.environ.get("SPACE_ID") else "127.0.0.1"
    host = host or os.environ.get("GRADIO_SERVER_NAME") or usual
    port = _chosen_port() if port is None else port
    check_port(host, port)
    gr.set_static_paths([assets.PLOTLY])
    use_own_head()
    # Past the queue a call would be answered with the first words of its reply, as if these were
    # all.
    page = build(engine).queue(
        max_size=QUEUE_SIZE, default_concurrency_limit=CONCURRENT_RUNS, api_open=False
    )
    try:
        page.launch(server_name=host, server_port=port, css=stylesheet(engine), **_switches(page))
    except OSError as error:  # taken between the check and the launch
        raise _taken(port) from error
    shown = "localhost" if host in ("0.0.0.0", "::", "127.0.0.1") else host
    return page, f"http://{shown}:{port}"


def check_port(host: str, port: int) -> None:
    """Fail early, with a message that says what to do, where the page could not listen.

    Raises:
        MPDError: the port is out of range, taken or not allowed, or the address unknown.
    """
    if not 1 <= port <= 65535:
        raise MPDError(f"Port {port} does not exist: choose one from 1 to 65535 with --port.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise _taken(port) from error
            advice = f"Cannot listen on '{host}': choose another address, e.g. 127.0.0.1."
            if error.errno == errno.EACCES:
                advice = f"Port {port} needs more rights: choose one above 1023 with --port."
            raise MPDError(advice) from error


def stylesheet(engine: Host) -> str:
    """The page's CSS, with the colours of this pack's experts."""
    return palette.css(engine.pack.space) + "\n" + assets.text("studio.css")


def theme() -> gr.themes.Base:
    """Calm paper and ink; fonts come with Gradio, none from the network."""
    return gr.themes.Base(
        primary_hue="stone",
        neutral_hue="stone",
        radius_size="md",
        font=[gr.themes.LocalFont("IBM Plex Sans", weights=(400, 700)), "system-ui", "sans-serif"],
        font_mono=[gr.themes.LocalFont("IBM Plex Mono"), "ui-monospace", "monospace"],
    )


def _switches(page: gr.Blocks) -> dict[str, Any]:
    return {
        "theme": theme(),
        "quiet": True,
        "share": False,
        "ssr_mode": False,
        "run_history": False,
        "prevent_thread_lock": True,
        "max_threads": CONCURRENT_RUNS + 40,
        "footer_links": ["api"],
        "app_kwargs": {
            "middleware": [
                Middleware(Calls, page=page),
                Middleware(CompressedPages, compresslevel=6),
            ],
            "exception_handlers": HANDLERS,
        },
        "favicon_path": assets.FOLDER / "favicon.svg",
    }


def _chosen_port() -> int:
    chosen = os.environ.get("GRADIO_SERVER_PORT") or str(DEFAULT_PORT)
    if not chosen.isascii() or not chosen.isdigit():
        raise MPDError(f"GRADIO_SERVER_PORT is '{chosen}': set it to a number from 1 to 65535.")
    return int(chosen)


def _taken(port: int) -> MPDError:
    return MPDError(
        f"Port {port} is taken: stop the program that uses it, or choose another with --port."
    )


class CompressedPages(GZipMiddleware):
    """Compresses pages, which hold this app's scripts: Gradio compresses files alone.

    Events that stream are never held back to be compressed.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        wanted = dict(scope["headers"]).get(b"accept", b"") if scope["type"] == "http" else b""
        if b"text/html" in wanted:
            await super().__call__(scope, receive, send)
        else:
            await self.app(scope, receive, send)
