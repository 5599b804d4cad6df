"""The Hugging Face hub as a source: one file, or a repository's safetensors; never a pickle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mpd_core.errors import ModelSourceError, one_line, others_as
from mpd_core.models.files import INDEX, WEIGHTS, checked_folder, need_space, weight_files
from mpd_core.sources.store import Progress, is_no_space

SMALL: dict[str, list[str]] = {
    "allow_patterns": ["*.json", "*.jinja", "*.model", "*.tiktoken", "merges.txt", "vocab.txt"],
    "ignore_patterns": ["*/*", "*.index*.json"],
}
"""What is taken from the top folder of a repository beside its weights."""
PROBE_SECONDS = 10
CACHE_ENV = "HF_HOME"


class UnavailableError(Exception):
    """One way of obtaining a file failed; the text goes into the final error."""


def hub_answers() -> bool:
    """Ask once: left alone, the hub's client retries for half a minute before it gives up."""
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=PROBE_SECONDS)
    except Exception:  # the client raises its own, its HTTP library's and OSError's exceptions
        return False
    return True


def hub_file(repo: str, revision: str, file: str, folder: Path, progress: Progress) -> Path:
    """One file, from the hub's own cache or downloaded into ``folder``.

    Raises:
        UnavailableError: the hub does not answer, or has no such file.
        OSError: the disk is full.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    held = try_to_load_from_cache(repo, file, revision=revision)
    if isinstance(held, str):
        return Path(held)
    if not hub_answers():
        raise UnavailableError("the Hugging Face hub does not answer")
    progress(f"Downloading {file} from {repo} on the Hugging Face hub")
    try:
        return Path(hf_hub_download(repo, file, revision=revision, local_dir=folder))
    except Exception as error:  # as in hub_answers
        if is_no_space(error):
            raise
        raise UnavailableError(one_line(error)) from error


def hub_snapshot(repo: str, revision: str, progress: Progress) -> Path:
    """A repository's safetensors, configuration and tokenizer, in the hub's own cache.

    Of several copies of the weights only those that transformers will read: what the index names,
    or ``model.safetensors``. They come last, so that where they are nothing else is missing.
    Without a network the copy in that cache is used.

    Raises:
        ModelSourceError: no network and no copy, no such repository, no safetensors, no room.
    """
    name = f"{repo} (revision {revision})"
    with others_as(
        ModelSourceError,
        lambda why: (
            f"{name} could not be obtained from the Hugging Face hub: {why} Check the "
            "network and the name (log in with 'hf auth login' if it is gated); "
            f"{CACHE_ENV} moves the hub's cache to another disk."
        ),
    ):
        if hub_answers():
            folder = _download(repo, revision, progress)
        else:
            progress(f"The Hugging Face hub does not answer; looking for {name} in its cache")
            folder = _snapshot(repo, revision, local_files_only=True, **SMALL)
    return checked_folder(folder, name)


def _snapshot(repo: str, revision: str, **options: Any) -> Path:
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(repo, revision=revision, **options))


def _download(repo: str, revision: str, progress: Progress) -> Path:
    """Small files first; then, when the disk has room, the weights."""
    from huggingface_hub import HfApi

    info = HfApi().model_info(repo, revision=revision, files_metadata=True)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    if not {WEIGHTS, INDEX}.intersection(sizes):
        raise ModelSourceError(
            f"{repo} (revision {revision}) holds no {WEIGHTS}, nor {INDEX}, and other weights are "
            "never loaded: name a revision that has them (the hub's automatic conversion is "
            "usually a pull request, revision = 'refs/pr/N'), or convert it and use a folder "
            "source."
        )
    # The commit, not the branch: all files of one state, whatever is pushed meanwhile.
    commit = info.sha or revision
    folder = _snapshot(repo, commit, **SMALL)
    if WEIGHTS not in sizes:
        folder = _snapshot(repo, commit, allow_patterns=[INDEX])
    weights = weight_files(folder) if WEIGHTS not in sizes else [WEIGHTS]
    _make_room(repo, {file: sizes.get(file, 0) for file in weights}, commit, progress)
    # The branch again, so that it is known in the cache by its name when there is no network.
    return _snapshot(repo, revision, allow_patterns=weights)


def _make_room(repo: str, weights: Mapping[str, int], commit: str, progress: Progress) -> None:
    """Before gigabytes travel: the disk has room for those that are not there yet."""
    from huggingface_hub import constants, try_to_load_from_cache

    total = sum(
        size
        for file, size in weights.items()
        if not isinstance(try_to_load_from_cache(repo, file, revision=commit), str)
    )
    if total:
        cache = Path(constants.HF_HUB_CACHE)
        cache.mkdir(parents=True, exist_ok=True)
        need_space(cache, total, CACHE_ENV)
        progress(f"Downloading {repo} from the Hugging Face hub ({total / 1e9:.2f} GB)")
