"""Every error that a user of this package can meet. Each message says what to do next."""


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
