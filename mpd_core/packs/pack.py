"""Packs: a TOML file that names everything a deployment needs, so that no code has to.

A pack is a folder with a ``pack.toml``. Unknown keys, missing files and wrong hashes are errors
that name the key or the file. Weights are safetensors only.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mpd_core.errors import PackError, RequestError
from mpd_core.method.preferences import Dimension, Pole, Preference, PreferenceSpace
from mpd_core.packs.schema import NAME, PackSpec
from mpd_core.packs.tables import GGUFSource, read_hashed_table
from mpd_core.request import SHIFTING, Branch, GenerationRequest, Message, Space
from mpd_core.resources import ASSETS

PACKS_DIR = ASSETS / "packs"
DEFAULT_PACK = "smollm2-135m"
PACK_ENV = "MPD_PACK"


class Pack:
    """A validated pack: its specification, its folder, and the hashes of its files."""

    def __init__(self, spec: PackSpec, folder: Path, toml_sha256: str | None = None) -> None:
        """Check a specification, whose paths are relative to ``folder``, for consistency.

        ``toml_sha256`` is of the file that it was read from; None: it was made in memory.
        """
        self.spec = spec
        self.folder = folder
        own = hashlib.sha256(spec.model_dump_json().encode()).hexdigest()
        self.toml_sha256 = toml_sha256 or own
        self.space = PreferenceSpace(
            tuple(
                Dimension(d.name, tuple(Pole(p.name, p.instruction) for p in d.poles))
                for d in spec.dimensions
            )
        )
        try:
            for code in (*(code for _, code in spec.examples), *spec.static):
                self.space.parse(code)
        except RequestError as error:
            raise PackError(f"{folder / 'pack.toml'}: examples, static: {error}") from error

    @property
    def trained(self) -> bool:
        """Whether the PCM has a trained head; without one it weighs uniformly."""
        return self.spec.pcm.head is not None

    @property
    def hashes(self) -> dict[str, str]:
        """Short name to SHA-256 of the TOML and of every file that it pins."""
        hashes = {"pack.toml": self.toml_sha256}
        if isinstance(self.spec.base.source, GGUFSource):
            hashes["base"] = self.spec.base.source.sha256
        return hashes | {name: sha for name, (_, sha) in self._files().items()}

    def path(self, relative: Path) -> Path:
        """A path of the pack, resolved against the pack's folder.

        Raises:
            PackError: links that lead in a circle.
        """
        try:
            return (self.folder / relative).resolve()
        except (OSError, RuntimeError) as error:
            raise PackError(f"{self.folder / relative} leads nowhere: {error}.") from error

    def merging(
        self,
        preference: Preference,
        space: Space | None = None,
        **given: float | None,
    ) -> dict[str, Any]:
        """How a request is merged, as arguments of ``GenerationRequest``; None: the pack's way.

        ``given`` are fields of the space ``strength``, see ``request.SHIFTING``.

        The pack's strength is meant for a whole preference. One that leaves dimensions out has
        fewer experts to share it, so it gets its share, but no less than logit space.
        """
        decode = self.spec.decode
        share = len(preference.poles) / len(self.space.dimensions)
        own = max(min(1.0, decode.strength), decode.strength * share)
        packed = {name: getattr(decode, name) for name in SHIFTING} | {"strength": own}
        chosen = {name: value for name, value in given.items() if value is not None}
        return {"space": space or decode.space, **packed, **chosen}

    def request(
        self,
        messages: str | Sequence[Message],
        preference: str,
        method: str = "mpd",
        *,
        space: Space | None = None,
        branch: Branch | None = None,
        **settings: Any,
    ) -> GenerationRequest:
        """A request in the pack's own way where nothing else is said; None says nothing.

        Args:
            messages: a prompt, or a conversation that ends with the user's turn.
            preference: one letter a dimension, ``-`` leaves one out.
            method: see ``engine.plan.method_names``.
            space: where experts are merged.
            branch: see ``request.Branch``.
            settings: fields of ``Sampling``, and those of the space ``strength``.

        Raises:
            RequestError: a letter, a number or a text that cannot be.
        """
        if isinstance(messages, str):
            messages = (Message("user", messages),)
        shifting = {name: settings.pop(name) for name in SHIFTING if name in settings}
        chosen = self.space.parse(preference)
        return GenerationRequest(
            tuple(messages),
            chosen.code,
            method,
            **self.merging(chosen, space, **shifting),
            sampling=self.spec.decode.sampling(**settings),
            branch=branch,
        )

    def verify_files(self) -> None:
        """Check that each file that the TOML pins is there and is that one.

        Raises:
            PackError: names the key and the file.
        """
        for key, (path, sha256) in self._files().items():
            try:
                found = file_sha256(path) if path.is_file() else None
            except OSError as error:
                raise PackError(f"{key}: {path} cannot be read: {error}.") from error
            if found is None:
                raise PackError(f"{key}: {path} is missing; restore it or remove the key.")
            if found != sha256:
                raise PackError(
                    f"{key}: {path} has another SHA-256 than pack.toml names; restore it."
                )

    def _files(self) -> dict[str, tuple[Path, str]]:
        spec = self.spec
        adapters = {f"experts.adapters.{n}": a for n, a in spec.experts.adapters.items()}
        if spec.experts.anchor:
            adapters["experts.anchor"] = spec.experts.anchor
        if spec.pcm.adapter:
            adapters["pcm.adapter"] = spec.pcm.adapter
        if spec.rewards:
            adapters["rewards"] = spec.rewards
        files = {}
        for key, adapter in adapters.items():
            folder = self.path(adapter.folder)
            files[key] = folder / "adapter_model.safetensors", adapter.sha256
            if adapter.config_sha256:
                files[f"{key}.config"] = folder / "adapter_config.json", adapter.config_sha256
        if reward := spec.rewards:
            head = self.path(reward.folder) / "head.safetensors"
            files["rewards.head"] = head, reward.head_sha256
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
    spec, toml_sha256 = read_hashed_table(path, PackSpec)
    pack = Pack(spec, path.parent, toml_sha256)
    pack.verify_files()
    return pack


def pack_names() -> list[str]:
    """Names of the packs that come with the project."""
    return sorted(path.parent.name for path in PACKS_DIR.glob("*/pack.toml"))


def _find(name: str) -> Path:
    if re.match(NAME, name) and (PACKS_DIR / name / "pack.toml").is_file():
        return PACKS_DIR / name / "pack.toml"
    try:
        path = Path(name).expanduser()
        path = path / "pack.toml" if path.is_dir() else path
        if path.is_file():
            return path.resolve()
    except (OSError, RuntimeError, ValueError):  # a name too long, an unknown user's home
        pass
    known = ", ".join(pack_names())
    raise PackError(f"No pack {name[:200]!r}: use {known}, or the path of a pack.toml.")
