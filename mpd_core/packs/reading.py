"""TOML files as the tables that they must be."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from mpd_core.errors import PackError
from mpd_core.resources import read_settings_text

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover
    import tomli as tomllib

T = TypeVar("T", bound=BaseModel)


def read_table(path: Path, kind: type[T]) -> T:
    """A TOML file as the table that it must be.

    Raises:
        PackError: names the file, and the key if there is one to name.
    """
    try:
        return kind.model_validate(tomllib.loads(read_settings_text(path)))
    except ValidationError as error:  # a ValueError as well
        raise PackError(f"{path}: " + "; ".join(complaints(error))) from error
    except (OSError, ValueError, RecursionError) as error:
        raise PackError(f"{path}: cannot be read: {error}") from error


def complaints(error: ValidationError) -> Iterator[str]:
    """The validation errors of a TOML file, one line per key."""
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"]) or "the file"
        if problem["type"] == "extra_forbidden":
            yield f"{key}: unknown key"
        elif problem["type"] == "missing":
            yield f"{key}: missing key"
        else:
            yield f"{key}: {problem['msg'].removeprefix('Value error, ')}"
