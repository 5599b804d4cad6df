"""Whether a base's files are what their names say, before anything reads them."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path, PurePosixPath
from typing import Any

from mpd_core.errors import ModelSourceError

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
BLOCKS = "blocks.safetensors"
"""Of a base that was converted from a GGUF: its blocks of 4 and 8 bits, see ``blocks``."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
READ = (".json", ".model", ".txt", ".jinja", ".tiktoken")
"""Files beside the weights that a base may be read from."""
ADAPTER = "adapter_config.json"
QUANTISED = "quantization_config"
UNREADABLE = (OSError, ValueError, OverflowError, RecursionError)
"""What reading a file as JSON can raise; the last where brackets are nested without end."""
_POINTER = b"version https://git-lfs"
_MOST_HEADER = 100_000_000


def checked_folder(folder: Path, name: str, *, tokenizer: bool = False) -> Path:
    """``folder``, when it holds a configuration and all of its safetensors, each of them whole.

    Args:
        folder: as ``save_pretrained`` writes it.
        name: for errors.
        tokenizer: whether it must hold one.

    Raises:
        ModelSourceError: names the file that is missing, cut, a git-lfs pointer, or too many.
    """
    weights = weight_files(folder)
    missing = [file for file in (CONFIG, *weights) if not (folder / file).is_file()]
    if tokenizer and not any((folder / file).is_file() for file in TOKENIZER_FILES):
        missing.append("tokenizer.json")
    if missing:
        raise ModelSourceError(
            f"{name}: {folder} has no {missing[0]}; a base is a folder as save_pretrained writes "
            "it: config.json, tokenizer files and safetensors."
        )
    if (folder / ADAPTER).is_file():
        raise ModelSourceError(
            f"{name}: {folder} holds an adapter, too ({ADAPTER}), which transformers would add to "
            "the base; name it under experts.adapters, and a folder of the base alone here."
        )
    small = (path.name for path in folder.iterdir() if path.suffix in READ and path.is_file())
    for file in (*sorted(small), *weights):
        _check_no_pointer(folder / file, name)
    for file in weights:
        _check_whole(folder / file, name)
    _check_json(folder / CONFIG, name)
    return folder


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
        _check_no_pointer(index, "base")
        raise ModelSourceError(f"{index} cannot be read: {_short(error)}") from error
    if not shards or not plain or not all(shard.endswith(".safetensors") for shard in shards):
        raise ModelSourceError(f"{index}: weight_map must name .safetensors files beside it.")
    return shards


def tensor_headers(folder: Path) -> dict[str, dict[str, Any]]:
    """By name, ``dtype`` and ``shape`` of all tensors in a checked folder, as the files have it."""
    headers = (_header(folder / file) for file in weight_files(folder))
    tensors = (item for header in headers for item in header.items())
    return {key: tensor for key, tensor in tensors if key != "__metadata__"}


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


def _check_no_pointer(file: Path, name: str) -> None:
    with file.open("rb") as stream:
        pointer = stream.read(len(_POINTER)) == _POINTER
    if pointer:
        raise ModelSourceError(
            f"{name}: {file} is a git-lfs pointer and not the file itself; "
            "run 'git lfs pull' in its folder, or download it from the hub."
        )


def _check_whole(file: Path, name: str) -> None:
    """The header of a safetensors file says how long the file is."""
    try:
        header = _header(file)
        tensors = [tensor for key, tensor in header.items() if key != "__metadata__"]
        parts = [(t["dtype"], t["shape"], int(t["data_offsets"][1])) for t in tensors]
        size, wanted = (
            file.stat().st_size,
            _header_size(file) + max((end for *_, end in parts), default=0),
        )
    except (*UNREADABLE, LookupError, TypeError, AttributeError, struct.error) as error:
        raise ModelSourceError(
            f"{name}: {file} is no safetensors file ({_short(error)}); download it again."
        ) from error
    if size != wanted:
        raise ModelSourceError(
            f"{name}: {file} has {size} bytes of the {wanted} that its header promises; "
            "download it again."
        )


def _check_json(file: Path, name: str) -> None:
    try:
        config = json.loads(file.read_text("utf-8"))
    except UNREADABLE as error:
        raise ModelSourceError(f"{name}: {file} cannot be read: {_short(error)}") from error
    if not isinstance(config, dict):
        raise ModelSourceError(f"{name}: {file} must hold a table of settings.")
    if config.get("transformers_weights"):
        raise ModelSourceError(
            f"{name}: {file} sets transformers_weights; only {WEIGHTS}, or what {INDEX} names, is "
            "read: remove the setting, or rename the file."
        )


def _header_size(file: Path) -> int:
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
    if length > _MOST_HEADER:
        raise ValueError("its first bytes are no header's length")
    return 8 + int(length)


def _header(file: Path) -> dict[str, dict[str, Any]]:
    size = _header_size(file)
    with file.open("rb") as stream:
        stream.seek(8)
        header: dict[str, dict[str, Any]] = json.loads(stream.read(size - 8))
    return header


def _short(error: BaseException) -> str:
    text = re.sub(r"\s+", " ", str(error)) or type(error).__name__
    return text if len(text) <= 120 else text[:119] + "…"
