"""Every error that a user of this package can meet. Each message says what to do next."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class MPDError(Exception):
    """Base of all errors raised on purpose; its text is one line meant for the user."""


class PackError(MPDError):
    """A pack's TOML, one of its files, or a tensor in them is not what it must be."""


class ModelSourceError(MPDError):
    """The base model could not be obtained; the text lists every source that was tried."""


class RequestError(MPDError):
    """A generation request is out of bounds: empty prompt, unknown pole, NaN temperature."""


class BusyError(MPDError):
    """The engine has no room for another request at the moment."""


class EngineError(MPDError):
    """A request failed inside the engine; other requests go on."""


def one_line(error: BaseException) -> str:
    """An exception's text in one line of bounded length."""
    text = " ".join(str(error).split()) or type(error).__name__
    return shortened(f"nothing is called {text}" if isinstance(error, KeyError) else text, 200)


def shortened(text: str, most: int) -> str:
    """The text, with an ellipsis for what is beyond so many characters."""
    return text if len(text) <= most else text[: most - 1] + "…"


@contextmanager
def others_as(kind: type[MPDError], sentence: Callable[[str], str]) -> Iterator[None]:
    """Tell exceptions of all other kinds as one of this kind.

    Args:
        kind: what may be raised on purpose, and passes.
        sentence: from ``one_line`` of anything else to the text of the error in its place.
    """
    try:
        yield
    except kind:
        raise
    except Exception as error:
        raise kind(sentence(one_line(error))) from error


@contextmanager
def about(subject: str) -> Iterator[None]:
    """Begin errors with what they are about, which those who read or check a thing do not know."""
    try:
        yield
    except MPDError as error:
        raise type(error)(f"{subject}: {error}") from error
