"""From trained weights to a pack: TOML with hashes, comments kept, and small folders of weights."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomlkit

from mpd_core.models.adapter_config import CONFIG_FILE
from mpd_core.models.adapters import WEIGHTS_FILE
from mpd_core.packs import Pack, file_sha256, load_pack
from mpd_core.training.experts import expert_folder
from mpd_core.training.rewards import reward_folder
from mpd_core.training.setup import Setup
from mpd_core.training.trainer import ADAPTER, HEAD

PACK = "pack.toml"


def working_pack(
    setup: Setup, folder: Path, pcm: Path | None = None, *, rewards: bool = False
) -> Pack:
    """A pack of trained experts, and a PCM if there is one, for the engine to open.

    Args:
        setup: its experts must have been trained, or be in the pack already.
        folder: where the pack is written; weights are copied into it.
        pcm: a folder with an adapter and ``head.safetensors``.
        rewards: copy the reward models, too.

    Raises:
        PackError: weights that are missing, or a pack that does not hold together.
    """
    folder.mkdir(parents=True, exist_ok=True)
    document = tomlkit.parse((setup.pack.folder / PACK).read_text(encoding="utf-8"))
    if folder.resolve() != setup.pack.folder.resolve():
        _make_absolute(setup, document)
    poles = setup.pack.space.poles
    others = {*setup.pack.spec.experts.checkpoints, *setup.pack.spec.experts.remotes}
    adapters = {p.name: expert_folder(setup, p) for p in poles if p.name not in others}
    if all((path / WEIGHTS_FILE).is_file() for path in adapters.values()):
        document["experts"]["prompt"] = "plain"  # type: ignore[index]
        for name, source in adapters.items():
            _put(document, ("experts", "adapters", name), _take(source, folder, "experts", name))
    if pcm:
        _put(document, ("pcm", "adapter"), _take(pcm / ADAPTER, folder, "pcm"))
        _copy(pcm / HEAD, folder / "pcm" / HEAD)
        head = {"file": f"pcm/{HEAD}", "sha256": file_sha256(folder / "pcm" / HEAD)}
        _put(document, ("pcm", "head"), head)
    for pole in poles if rewards else ():
        source = reward_folder(setup, pole)
        table = _take(source, folder, "rewards", pole.name)
        _copy(source / HEAD, folder / table["folder"] / HEAD)
        table["head_sha256"] = file_sha256(folder / table["folder"] / HEAD)
        _put(document, ("rewards", pole.name), table)
    (folder / PACK).write_text(tomlkit.dumps(document), encoding="utf-8")
    return load_pack(folder)


def write_static(folder: Path, weights: Mapping[str, Sequence[float]]) -> None:
    """Name the best constant weights of each preference in a pack."""
    file = folder / PACK
    document = tomlkit.parse(file.read_text(encoding="utf-8"))
    document.pop("static", None)
    document["static"] = {code: [round(w, 4) for w in row] for code, row in weights.items()}
    file.write_text(tomlkit.dumps(document), encoding="utf-8")


def _take(source: Path, folder: Path, *place: str) -> dict[str, str]:
    """Copy an adapter into a pack; its table there."""
    target = folder.joinpath(*place)
    target.mkdir(parents=True, exist_ok=True)
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        _copy(source / name, target / name)
    return {"folder": "/".join(place), "sha256": file_sha256(target / WEIGHTS_FILE)}


def _copy(source: Path, target: Path) -> None:
    """Replace a file as a whole: an engine may have the old one mapped into memory."""
    if source.resolve() != target.resolve():
        scratch = target.with_name(target.name + ".part")
        shutil.copyfile(source, scratch)
        scratch.replace(target)


def _put(document: Any, keys: Sequence[str], value: Mapping[str, str]) -> None:
    *above, last = keys
    for key in above:
        if key not in document:
            document[key] = tomlkit.table(is_super_table=True)
        document = document[key]
    table = tomlkit.table()
    table.update(value)
    document[last] = table


def _make_absolute(setup: Setup, table: Any) -> None:
    """Files and folders are named relative to their pack, and this one lies elsewhere."""
    for key, value in table.items():
        if isinstance(value, dict):
            _make_absolute(setup, value)
        elif key == "folder" or (key == "file" and table.get("kind") != "gguf"):
            table[key] = str(setup.pack.path(Path(value)))
