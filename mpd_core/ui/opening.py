"""An engine that is still being opened, for a page that is there already."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, TypeAlias

from mpd_core.engine.plan import method_names
from mpd_core.errors import EngineError, MPDError

if TYPE_CHECKING:
    from mpd_core.engine import Engine
    from mpd_core.packs import Pack

    Host: TypeAlias = "Engine | Opening"
    """What a page stands on."""

LOG = logging.getLogger(__name__)
LOOK_SECONDS = 0.2
"""How often a reply that waits for the model looks whether it is there."""


class Opening:
    """Opens an engine in a thread of its own once it is started, and says how far that is."""

    def __init__(
        self,
        pack: Pack,
        opener: Callable[[Callable[[str], None]], Engine],
        tell: Callable[[str], None] = print,
    ) -> None:
        """Begin with ``start``; ``tell`` hears in sentences what ``opener`` is doing."""
        self.pack = pack
        self.methods = method_names(pack)
        self.stage = "Starting."
        self.engine: Engine | None = None
        self._opener, self._tell = opener, tell
        self._error: Exception | None = None
        self._done = threading.Event()

    def start(self) -> None:
        """Begin to open; once."""
        threading.Thread(target=self._open, name="mpd-opening", daemon=True).start()

    def _open(self) -> None:
        try:
            self.engine = self._opener(self._say)
        except Exception as error:
            self._error = error
            self.stage = "The model could not be loaded."
        self._done.set()

    def _say(self, sentence: str) -> None:
        self.stage = sentence
        self._tell(sentence)

    @property
    def done(self) -> bool:
        """Whether the engine is there, or will never be."""
        return self._done.is_set()

    def wait(self) -> Engine:
        """The engine, once it is open.

        Raises:
            Exception: whatever the opener raised.
        """
        self._done.wait()
        if self.engine is None:
            raise self._error or EngineError("The model could not be loaded.")
        return self.engine

    def close(self) -> None:
        """Close the engine, if there is one."""
        if self.engine is not None:
            self.engine.close()


def arriving(host: Host) -> Generator[tuple[str, ...], None, Engine]:
    """Wait for a host's engine and return it; in small steps, so that who waits can be called off.

    Raises:
        EngineError: it could not be opened.
    """
    if not isinstance(host, Opening):
        return host
    while not host.done:
        time.sleep(LOOK_SECONDS)
        yield ()
    try:
        return host.wait()
    except MPDError as error:
        raise EngineError(f"The model could not be loaded: {error}") from error


def describe(host: Host) -> dict[str, Any]:
    """What a page is told of its engine; ``stage`` while that is being opened."""
    engine = host.engine if isinstance(host, Opening) else host
    if engine is None:
        stage = host.stage if isinstance(host, Opening) else ""
        return {"ready": False, "stage": stage, "device": "", "precision": "", "notes": []}
    info = engine.info
    facts = {"device": info.device, "precision": info.precision, "notes": list(info.notes)}
    return {"ready": True, "stage": "", **facts}
