"""The cache of converted base models, on disk.

A cached model is a folder as ``save_pretrained`` writes it, plus a ``manifest.json`` with the
sizes of its files. The folder is built under another name and renamed when it is whole, under a
lock, so that neither an interruption nor a second process leaves a half-written model behind.
The hub's own cache has a place for files that others derive (``cached_assets_path``), but neither a
lock nor a mark of completeness for them.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from filelock import FileLock, Timeout

from mpd_core.errors import ModelSourceError, one_line
from mpd_core.models.files import CACHE_ENV, need_space
from mpd_core.saving import read_json

LAYOUT = 4
"""Part of each folder's name: raise it when the conversion changes, and models are redone."""
MIN_FREE_BYTES = 850_000_000
"""What the default base needs while it is converted: wheel, GGUF, fp32 safetensors, blocks."""
MANIFEST = "manifest.json"

Progress = Callable[[str], None]


def cache_root() -> Path:
    """Where converted models live: ``MPD_CACHE``, else ``mpd-studio`` in the user's cache folder.

    Raises:
        ModelSourceError: there is no home folder to put it in.
    """
    if own := os.environ.get(CACHE_ENV):
        return Path(own).expanduser().absolute()
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    try:
        # The XDG specification: a relative path is invalid and is ignored.
        parent = Path(xdg) if Path(xdg).is_absolute() else Path.home() / ".cache"
    except RuntimeError as error:
        raise ModelSourceError(
            f"There is no home folder to cache the base model in: set {CACHE_ENV} to a folder."
        ) from error
    return parent / "mpd-studio"


def is_complete(folder: Path) -> bool:
    """Whether the folder holds each file that its manifest names, in the size that it names."""
    try:
        sizes = read_json(folder / MANIFEST)["files"]
        return bool(sizes) and all(
            (folder / name).stat().st_size == size for name, size in sizes.items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def build_once(name: str, make: Callable[[Path, Path], None], progress: Progress) -> Path:
    """The cached model folder ``name``, made by ``make(target, scratch)`` if it is not there.

    ``make`` writes the model into ``target`` and may use ``scratch`` for downloads; both are on
    the cache's disk, and ``scratch`` is removed afterwards.

    Raises:
        ModelSourceError: no room, no permission, or whatever ``make`` raises.
    """
    root = cache_root()
    final = root / f"{name}-v{LAYOUT}"
    if is_complete(final):  # before the lock: a complete cache may be read-only
        return final
    with _disk_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        with _lock(root / f"{final.name}.lock", progress):
            if is_complete(final):  # another process made it while this one waited
                return final
            part = f"{final.name}.part-"
            for path in (final, *root.glob(f"{part}*")):  # broken, or interrupted: nobody's now
                if path.exists():
                    shutil.rmtree(path)
            need_space(root, MIN_FREE_BYTES)
            with TemporaryDirectory(prefix=part, dir=root, ignore_cleanup_errors=True) as work:
                target, scratch = Path(work) / "model", Path(work) / "scratch"
                target.mkdir()
                scratch.mkdir()
                make(target, scratch)
                _seal(target)
                target.rename(final)
                _fsync(root)
    return final


def is_no_space(error: BaseException) -> bool:
    """Whether the disk is full; safetensors says so only in its text."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return full or "No space left on device" in str(error)


@contextmanager
def _disk_errors(root: Path) -> Iterator[None]:
    try:
        yield
    except ModelSourceError:
        raise
    except Exception as error:
        if not (full := is_no_space(error)) and not isinstance(error, OSError):
            raise
        reason = "No disk space left in" if full else "Cannot write in"
        raise ModelSourceError(
            f"{reason} the model cache {root} ({one_line(error)}): "
            f"set {CACHE_ENV} to a writable folder with {MIN_FREE_BYTES / 1e9:.2f} GB free."
        ) from error


def _lock(path: Path, progress: Progress) -> AbstractContextManager[object]:
    """A lock that is held; to be left."""
    lock = FileLock(path)
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        progress("Another process is preparing the base model; waiting for it.")
        return lock.acquire()


def _seal(folder: Path) -> None:
    """Bring the files to disk, then write the manifest that declares them whole."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    sizes = {path.name: path.stat().st_size for path in files}
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps({"layout": LAYOUT, "files": sizes}, indent=1), "utf-8")
    for path in (*files, manifest):
        path.chmod(manifest.stat().st_mode)  # safetensors leaves its file to the owner alone
        _fsync(path)
    _fsync(folder)


def _fsync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # Windows cannot open folders
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
