"""A terminal: tables, encodings that are not UTF-8, marks of byte order, readers that have gone."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Sequence

from mpd_core.errors import RequestError
from mpd_core.trace import Trace

BOM = "\N{ZERO WIDTH NO-BREAK SPACE}"
GRACE_S = 5.0
TERMINATED = 143
"""What shells say of a program that SIGTERM ended."""
CLOSED_PIPE = 141
"""What shells say of a program whose reader has gone."""


def escape_what_is_lacking() -> None:
    """Write characters that the terminal's encoding lacks as escapes, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def tell(sentence: str) -> None:
    """Print progress on stderr."""
    if sys.stderr is not None:  # without one, print would write to stdout
        print(sentence, file=sys.stderr, flush=True)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width under a ruled heading; nothing if there are no rows."""
    if len(rows) < 2:
        return ""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def typed(prompt: str) -> str:
    """The prompt as text, from the command line or, for ``-``, from stdin.

    Raises:
        RequestError: bytes that are no text.
    """
    try:
        if prompt == "-":
            prompt = sys.stdin.read() if sys.stdin else ""
            # Outside of Windows, Python leaves its line ends as they are.
            prompt = prompt.removeprefix(BOM).replace("\r\n", "\n").removesuffix("\n")
        # Where the locale knows ASCII alone, Python keeps other bytes as halves of pairs.
        return prompt.encode("utf-8", "surrogateescape").decode("utf-8").removeprefix(BOM)
    except UnicodeError as error:
        raise RequestError(f"The prompt is not valid text: {error}; give UTF-8.") from error


def writable(trace: Trace) -> str:
    """A trace as JSON that stdout's encoding can hold."""
    text = trace.to_json()
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return trace.to_json(ascii_only=True)
    return text


def stop_when_terminated() -> None:
    """Let SIGTERM end a command as Ctrl+C does.

    As the first process of a container, which Docker's image starts it as, a program that has said
    nothing of a signal never hears it: ``docker stop`` would wait ten seconds and then kill it.
    What has not ended after half of them, as a visitor's connection is still open, is cut off.
    """

    def stop(*_: object) -> None:
        last = threading.Timer(GRACE_S, os._exit, (TERMINATED,))
        last.daemon = True
        last.start()
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, stop)


def hang_up() -> int:
    """Leave nothing to be written when Python ends, where nobody reads it; the exit code."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            os.dup2(nowhere, stream.fileno())
    return CLOSED_PIPE
