"""Optional packages that others would import, although nothing here uses what they are for."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def left_out(*names: str) -> Iterator[None]:
    """Have packages look as if they were not installed while others look for them.

    Whoever imports one of them afterwards gets it.
    """
    modules: dict[str, Any] = sys.modules  # None: there is no such module
    before = {name: modules[name] for name in names if name in modules}
    modules.update(dict.fromkeys(names))
    try:
        yield
    finally:
        for name in names:
            del modules[name]
        modules.update(before)
