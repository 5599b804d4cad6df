"""Files that are replaced as a whole: whoever reads one sees the old content or the new."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A path to write to; it takes the file's place when the block ends without an error.

    The file's folder is made where there is none. An engine may have the old file mapped into
    memory: that one stays as it is.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.with_name(f"{file.name}.part")
    yield scratch
    scratch.replace(file)
