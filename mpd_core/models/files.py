"""Whether a base's files are what their names say, before anything reads them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import SafetensorError, safe_open

from mpd_core.errors import ModelSourceError, MPDError, about, one_line

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
BLOCKS = "blocks.safetensors"
"""Of a base that was converted from a GGUF: its blocks of 4 and 8 bits, see ``blocks``."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
READ = (".json", ".model", ".txt", ".jinja", ".tiktoken")
"""Files beside the weights that a base may be read from."""
ADAPTER = "adapter_config.json"
QUANTISED = "quantization_config"
LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
"""How every model and tokenizer is read: said outright, or transformers asks at the terminal."""
UNREADABLE = (OSError, ValueError, OverflowError, RecursionError)
"""What reading a file as JSON can raise; the last where brackets are nested without end."""
CACHE_ENV = "MPD_CACHE"
"""Where bases are kept that were converted."""
_POINTER = b"version https://git-lfs"


def checked_folder(folder: Path, name: str, *, tokenizer: bool = False) -> Path:
    """``folder``, when it holds a configuration and all of its safetensors, each of them whole.

    With ``tokenizer`` it must hold one, too; errors begin with ``name``.

    Raises:
        ModelSourceError: names the file that is missing, cut, a git-lfs pointer, or too many,
            or the tensor that two of them hold.
    """
    with about(name):
        _check_folder(folder, tokenizer=tokenizer)
    return folder


def _check_folder(folder: Path, *, tokenizer: bool) -> None:
    weights = weight_files(folder)
    missing = [file for file in (CONFIG, *weights) if not (folder / file).is_file()]
    if tokenizer and not any((folder / file).is_file() for file in TOKENIZER_FILES):
        missing.append("tokenizer.json")
    if missing:
        raise ModelSourceError(
            f"{folder} has no {missing[0]}; a base is a folder as save_pretrained writes it: "
            "config.json, tokenizer files and safetensors."
        )
    if (folder / ADAPTER).is_file():
        raise ModelSourceError(
            f"{folder} holds an adapter, too ({ADAPTER}), which transformers would add to the "
            "base; name it under experts.adapters, and a folder of the base alone here."
        )
    small = (path.name for path in folder.iterdir() if path.suffix in READ and path.is_file())
    for file in (*sorted(small), *weights):
        check_no_pointer(folder / file, ModelSourceError)
    held: dict[str, str] = {}
    for file in weights:
        for key in _keys_of_whole(folder / file):
            if (other := held.setdefault(key, file)) != file:  # transformers takes the last one's
                raise ModelSourceError(
                    f"{folder / other} and {file} both hold '{key}', maybe of two models: obtain "
                    "the weights again, into an empty folder."
                )
    _check_json(folder / CONFIG)


def weight_files(folder: Path) -> list[str]:
    """The weights that transformers will read: what the index names, or the one file.

    Raises:
        ModelSourceError: an index that cannot be read, or names files elsewhere.
    """
    index = folder / INDEX
    if not index.is_file() or (folder / WEIGHTS).is_file():
        return [WEIGHTS]  # as transformers looks for them
    try:
        shards = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        plain = all(PurePosixPath(shard).name == shard for shard in shards)
    except (*UNREADABLE, KeyError, AttributeError, TypeError) as error:
        check_no_pointer(index, ModelSourceError)
        raise ModelSourceError(f"{index} cannot be read: {one_line(error)}") from error
    if not shards or not plain or not all(shard.endswith(".safetensors") for shard in shards):
        raise ModelSourceError(f"{index}: weight_map must name .safetensors files beside it.")
    return shards


def tensor_headers(folder: Path) -> dict[str, tuple[str, list[int]]]:
    """By name, type and shape of all tensors in a checked folder, as the files have it."""
    found = {}
    for weights in weight_files(folder):
        with safe_open(folder / weights, "pt") as file:
            tensors = ((key, file.get_slice(key)) for key in file.keys())  # noqa: SIM118
            found.update({key: (t.get_dtype(), list(t.get_shape())) for key, t in tensors})
    return found


def advice(folder: Path) -> str:
    """What to do about a base that transformers cannot load, by what its configuration says."""
    try:
        config = json.loads((folder / CONFIG).read_text("utf-8"))
        if "auto_map" in config:
            return (
                "it asks for code of its own (auto_map), which is never run: use a base that "
                "transformers has the code of"
            )
        if config.get(QUANTISED):
            return (
                f"its config.json says that its weights are quantised ({QUANTISED}): use the same "
                "model's unquantised weights, which precision or quantize under [base] makes small"
            )
    except (*UNREADABLE, AttributeError):
        pass
    return "use a causal LM that transformers knows, whole, with its own config.json and tokenizer"


def check_no_pointer(file: Path, kind: type[MPDError]) -> None:
    """Refuse, by an error of that kind, what git-lfs leaves in a file's place until it is asked."""
    with file.open("rb") as stream:
        pointer = stream.read(len(_POINTER)) == _POINTER
    if pointer:
        raise kind(
            f"{file} is a git-lfs pointer and not the file itself: run 'git lfs pull' in its "
            "folder, or download it from the hub."
        )


def _keys_of_whole(file: Path) -> list[str]:
    """Names of tensors; the library holds a file's length, and these against its header."""
    try:
        with safe_open(file, "pt") as tensors:
            return list(tensors.keys())
    except (OSError, SafetensorError) as error:
        raise ModelSourceError(
            f"{file} is cut, or no safetensors file ({one_line(error)}); download it again."
        ) from error


def _check_json(file: Path) -> None:
    try:
        config = json.loads(file.read_text("utf-8"))
    except UNREADABLE as error:
        raise ModelSourceError(f"{file} cannot be read: {one_line(error)}") from error
    if not isinstance(config, dict):
        raise ModelSourceError(f"{file} must hold a table of settings.")
    if config.get("transformers_weights"):
        raise ModelSourceError(
            f"{file} sets transformers_weights; only {WEIGHTS}, or what {INDEX} names, is read: "
            "remove the setting, or rename the file."
        )


def need_space(folder: Path, size: int, variable: str = CACHE_ENV) -> None:
    """Refuse early when the disk has less than ``size`` bytes free.

    Raises:
        ModelSourceError: says how much is missing and how to use another disk.
    """
    free = shutil.disk_usage(folder).free
    if free < size:
        raise ModelSourceError(
            f"No disk space for the base model: {folder} has {free / 1e9:.2f} GB free and "
            f"{size / 1e9:.2f} GB are needed; free some, or set {variable} to a larger disk."
        )
