"""How loops are compiled by numba, kept on disk, and run on threads.

Loops run on OpenMP threads, the very ones that torch's products run on and as many (``threads``
says how many): torch's library is loaded first and answers for both. A pool of their own would have
to take turns with torch's, which waits for work without sleeping; without OpenMP they run on one
core instead.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba import njit

from mpd_core.models.threads import settle

settle()  # numba reads how many threads there are when a loop is first compiled

F = TypeVar("F", bound=Callable[..., Any])


def find_openmp() -> bool:
    """Whether numba's threads can be OpenMP's."""
    try:
        importlib.import_module("numba.np.ufunc.omppool")
    except ImportError:
        return False
    return True


HAS_OPENMP = find_openmp()
"""Whether loops share torch's threads; numba needs the system's library for it."""
if HAS_OPENMP:
    numba.config.THREADING_LAYER = "omp"


def loop_threads() -> int:
    """How many threads the loops run on."""
    return int(numba.get_num_threads()) if HAS_OPENMP else 1


def compiled(*fastmath: str, parallel: bool = False, calls: bool = False) -> Callable[[F], F]:
    """Compile a function when it is first called, and keep the code on disk.

    Args:
        fastmath: LLVM's flags; ``contract``, fused multiply-add, is always on.
        parallel: share its outer loop out among threads.
        calls: it calls loops, of other files, too.
    """
    threaded = parallel and HAS_OPENMP
    options = {"nogil": True, "fastmath": {"contract", *fastmath}, "parallel": threaded}
    # On disk, code for threads and for none have one name.
    kept = HAS_OPENMP or not (parallel or calls)

    def decorate(function: F) -> F:
        try:
            made = njit(cache=kept, **options)(function)
        except RuntimeError:  # nowhere to write: each process compiles for itself
            return cast(F, njit(**options)(function))
        if kept:  # or code would be taken from disk whose callees have changed since
            made._cache._cache_file._source_stamp = _stamp()
        return cast(F, made)

    return decorate


@cache
def _stamp() -> str:
    """What all loops are written in; numba itself looks at a function's own file alone."""
    here = Path(__file__)
    others = (file for end in ("code", "loops") for file in sorted(here.parent.glob(f"*_{end}.py")))
    files = (here, here.with_name("kernels.py"), *others)
    return sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
