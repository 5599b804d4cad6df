"""Files that are replaced as a whole, and whether a disk has room for what is to be written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mpd_core.errors import ModelSourceError

CACHE_ENV = "MPD_CACHE"
"""Where bases are kept that were converted."""


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A path to write to; it takes the file's place when the block ends without an error.

    Whoever reads the file sees its old content or the new. Its folder is made where there is none.
    An engine may have the old file mapped into
    memory: that one stays as it is.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.with_name(f"{file.name}.part")
    yield scratch
    scratch.replace(file)


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file atomically, creating its folder if needed."""
    with replacing(file) as scratch:
        scratch.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")


def need_space(folder: Path, size: int, variable: str = CACHE_ENV) -> None:
    """Refuse early when the disk has less than ``size`` bytes free.

    Raises:
        ModelSourceError: says how much is missing and how to use another disk.
    """
    free = shutil.disk_usage(folder).free
    if free < size:
        raise ModelSourceError(
            f"No disk space for the base model: {folder} has {free / 1e9:.2f} GB free and "
            f"{size / 1e9:.2f} GB are needed; free some, or set {variable} to a larger disk."
        )
