"""Files and folders that are replaced as a whole, JSON in them, and hashes of such values."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A path to write to; it takes the file's place when the block ends without an error.

    Whoever reads the file sees its old content or the new. Its folder is made where there is none.
    An engine may have the old file mapped into memory: that one stays as it is.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.with_name(f"{file.name}.part")
    yield scratch
    scratch.replace(file)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """The same for a folder: the path is free, and a crash leaves the old one or none."""
    scratch = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(scratch, ignore_errors=True)
    yield scratch
    shutil.rmtree(folder, ignore_errors=True)
    scratch.rename(folder)


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file atomically, creating its folder if needed."""
    with replacing(file) as scratch:
        scratch.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")


def read_json(file: Path) -> Any:
    """What a JSON file holds; ``OSError`` or ``ValueError`` where it cannot be read."""
    return json.loads(file.read_text(encoding="utf-8"))


def content_hash(value: object, *, sort_keys: bool = True) -> str:
    """SHA-256 of a value as JSON: what rows, and files made by other files, are keyed by."""
    text = json.dumps(value, sort_keys=sort_keys, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
