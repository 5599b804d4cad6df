"""Modules that others import at once and hardly anybody uses."""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from types import ModuleType
from typing import Any


class _Later(ModuleType):
    """Stands for a module until something of it is asked for, then passes on what it has.

    ``importlib.util.LazyLoader`` does not serve: the statement ``import`` itself asks its modules
    for their ``__spec__``, which loads them.
    """

    def __getattr__(self, name: str) -> Any:  # only of what is not there
        found = sys.modules.get(self.__name__, self)
        if found is self:
            del sys.modules[self.__name__]
            found = importlib.import_module(self.__name__)
        return getattr(found, name)


def import_later(name: str) -> None:
    """Have a package imported when something of it is asked for, not when it is imported.

    Where it is loaded already, or not installed, nothing changes.
    """
    if name in sys.modules or not (spec := find_spec(name)):
        return
    sys.modules[name] = later = _Later(name)
    later.__spec__, later.__file__ = spec, spec.origin  # ``inspect`` asks all modules for theirs
