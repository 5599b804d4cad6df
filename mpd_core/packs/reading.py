"""TOML files as the tables that they must be."""

from __future__ import annotations

import re
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
SHOWN = 20
DEEPEST = 30
"""Parts of a key, and so of a header. A parser's time grows with their square."""
_PART = r"""(?:[A-Za-z0-9_-]+|"(?:\\.|[^"\\\n])*"|'[^'\n]*')"""
_DEEP = re.compile(rf"(?<![A-Za-z0-9_-]){_PART}(?:[ \t]*\.[ \t]*{_PART}){{{DEEPEST}}}")


def read_table(path: Path, kind: type[T]) -> T:
    """A TOML file as the table that it must be.

    Raises:
        PackError: names the file, and the key if there is one to name.
    """
    try:
        text = read_settings_text(path)
        if deep := _DEEP.search(text):
            line = text.count("\n", 0, deep.start()) + 1
            raise ValueError(f"the key in line {line} has over {DEEPEST} parts: no table has such")
        return kind.model_validate(tomllib.loads(text))
    except ValidationError as error:  # a ValueError as well
        raise PackError(f"{path}: " + "; ".join(complaints(error))) from error
    except (OSError, ValueError, RecursionError) as error:
        raise PackError(f"{path}: cannot be read: {error}") from error


def complaints(error: ValidationError) -> Iterator[str]:
    """The validation errors of a file of settings, one line per key; of very many the first."""
    problems = error.errors()
    for problem in problems[:SHOWN]:
        key = ".".join(str(part) for part in problem["loc"]) or "the file"
        if problem["type"] == "extra_forbidden":
            yield f"{key}: unknown key"
        elif problem["type"] == "missing":
            yield f"{key}: missing key"
        else:
            yield f"{key}: {problem['msg'].removeprefix('Value error, ')}"
    if len(problems) > SHOWN:
        yield f"{len(problems) - SHOWN} more"
