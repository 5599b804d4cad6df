"""Several replies at once, for someone who may leave at any moment."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")
SILENT_SECONDS = 1.0
"""How long nothing may come before a reader is told so."""


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
