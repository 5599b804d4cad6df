"""Tries programs from others, which may never end, in a process of their own."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from importlib.util import find_spec

MOST_BYTES = 1 << 30
"""Of memory, in such a process."""
BUSY = 60 if find_spec("resource") else 6
"""Wall time allowed as a multiple of processor time: large where the latter has a limit itself."""
_NO_MEMORY = 9
_LIMITS = """
import contextlib, os, sys
with contextlib.suppress(ImportError, ValueError, OSError):
    import resource
    resource.setrlimit(resource.RLIMIT_CPU, ({seconds}, {seconds}))
with contextlib.suppress(ImportError, ValueError, OSError):
    import resource
    resource.setrlimit(resource.RLIMIT_AS, ({most_bytes}, {most_bytes}))
sys.excepthook = lambda kind, *_: os._exit({code} if issubclass(kind, MemoryError) else 1)
"""


def ends(program: str, given: object, seconds: float) -> bool:
    """Whether a program is not seen to go on for more seconds of a processor, or to fill memory.

    Where it cannot be tried, or fails for another reason, it is not seen to.

    Args:
        program: Python, which finds ``given`` as JSON on its standard input.
        given: what it is tried on.
        seconds: Python cannot break everything off from within: the process is ended.
    """
    if not sys.executable or getattr(sys, "frozen", False):  # nothing there that runs Python
        return True
    limits = _LIMITS.format(seconds=math.ceil(seconds), most_bytes=MOST_BYTES, code=_NO_MEMORY)
    try:
        tried = subprocess.run(
            [sys.executable, "-I", "-c", limits + program],
            input=json.dumps(given).encode(),
            timeout=BUSY * seconds,
            capture_output=True,
        )
    except subprocess.TimeoutExpired:
        return False
    except OSError:
        return True
    return tried.returncode >= 0 and tried.returncode != _NO_MEMORY  # signals have negative ones
