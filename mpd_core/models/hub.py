"""The Hugging Face hub as a source: one file, or a repository's safetensors; never a pickle."""

from __future__ import annotations

import json
from fnmatch import fnmatch
from pathlib import Path

from mpd_core.errors import ModelSourceError
from mpd_core.models.store import Progress, is_no_space, need_space, one_line

WANTED = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt")
"""What is taken from the top folder of a repository."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
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

    Without a network the copy in that cache is used.

    Raises:
        ModelSourceError: no network and no copy, no such repository, no safetensors, no room.
    """
    from huggingface_hub import snapshot_download

    name = f"{repo} (revision {revision})"
    try:
        online = hub_answers()
        if online:
            _check_listing(repo, revision, progress)
        else:
            progress(f"The Hugging Face hub does not answer; looking for {name} in its cache")
        found = snapshot_download(
            repo,
            revision=revision,
            allow_patterns=list(WANTED),
            ignore_patterns="*/*",
            local_files_only=not online,
        )
    except ModelSourceError:
        raise
    except Exception as error:  # as in hub_answers
        raise ModelSourceError(
            f"{name} could not be obtained from the Hugging Face hub: {one_line(error)} "
            f"Check the network and the name (log in with 'hf auth login' if it is gated); "
            f"{CACHE_ENV} moves the hub's cache to another disk."
        ) from error
    return checked_folder(Path(found), name)


def checked_folder(folder: Path, name: str, *, tokenizer: bool = False) -> Path:
    """``folder``, when it holds a configuration and all of its safetensors.

    Raises:
        ModelSourceError: names the missing file.
    """
    index = folder / "model.safetensors.index.json"
    missing = [file for file in ("config.json",) if not (folder / file).is_file()]
    if index.is_file():
        try:
            shards = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise ModelSourceError(f"{index} cannot be read: {one_line(error)}") from error
        missing += sorted(shard for shard in shards if not (folder / shard).is_file())
    elif not (folder / "model.safetensors").is_file():
        missing.append("model.safetensors")
    if tokenizer and not any((folder / file).is_file() for file in TOKENIZER_FILES):
        missing.append("tokenizer.json")
    if missing:
        raise ModelSourceError(
            f"{name}: {folder} has no {missing[0]}; a base is a folder as save_pretrained writes "
            "it: config.json, tokenizer files and safetensors."
        )
    return folder


def _is_wanted(file: str) -> bool:
    return "/" not in file and any(fnmatch(file, pattern) for pattern in WANTED)


def _check_listing(repo: str, revision: str, progress: Progress) -> None:
    """Before gigabytes travel: the repository has safetensors, and the disk has room."""
    from huggingface_hub import HfApi, constants, try_to_load_from_cache

    info = HfApi().model_info(repo, revision=revision, files_metadata=True)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    if not any(_is_wanted(file) and file.endswith(".safetensors") for file in sizes):
        raise ModelSourceError(
            f"{repo} (revision {revision}) holds no safetensors, and pickled weights are never "
            "loaded: name a revision that has them (the hub's automatic conversion is usually a "
            "pull request, revision = 'refs/pr/N'), or convert it and use a folder source."
        )
    absent = {
        file: size
        for file, size in sizes.items()
        if _is_wanted(file)
        and not isinstance(try_to_load_from_cache(repo, file, revision=info.sha), str)
    }
    if absent:
        cache = Path(constants.HF_HUB_CACHE)
        cache.mkdir(parents=True, exist_ok=True)
        need_space(cache, sum(absent.values()), CACHE_ENV)
        total = sum(absent.values()) / 1e9
        progress(f"Downloading {repo} from the Hugging Face hub ({total:.2f} GB)")
