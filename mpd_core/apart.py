"""What strangers wrote and may never come to an end, tried in a process of its own."""

from __future__ import annotations

import json
import math
import subprocess
import sys

MOST_BYTES = 1 << 30
"""Of memory, in such a process."""
BUSY = 6
"""How many times its processor time it may take on a machine that has other things to do."""
_LIMITS = """
import contextlib
with contextlib.suppress(ImportError, ValueError, OSError):
    import resource
    resource.setrlimit(resource.RLIMIT_CPU, ({seconds}, {seconds}))
    resource.setrlimit(resource.RLIMIT_AS, ({most_bytes}, {most_bytes}))
"""


def ends(program: str, given: object, seconds: float) -> bool:
    """Whether a program ends well, in so many seconds of a processor and with bounded memory.

    Args:
        program: Python, which finds ``given`` as JSON on its standard input.
        given: what it is tried on.
        seconds: Python cannot break everything off from within: the process is ended.
    """
    limits = _LIMITS.format(seconds=math.ceil(seconds), most_bytes=MOST_BYTES)
    try:
        subprocess.run(
            [sys.executable, "-I", "-c", limits + program],
            input=json.dumps(given).encode(),
            timeout=BUSY * seconds,
            check=True,
            capture_output=True,
        )
    except (subprocess.SubprocessError, OSError):
        return False
    return True
