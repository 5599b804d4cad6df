"""From trained weights to a pack: TOML with hashes, comments kept, and small folders of weights."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomlkit

from mpd_core.errors import PackError
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
        setup: with all experts that it trains, or none; those of the pack count, too.
        folder: where the pack is written; weights are copied into it.
        pcm: a folder with an adapter and ``head.safetensors``.
        rewards: copy the reward models, too, if there are any.

    Raises:
        PackError: some weights are missing, or the pack does not hold together.
    """
    experts, trained_here = _experts(setup)
    models = _rewards(setup) if rewards else {}
    folder.mkdir(parents=True, exist_ok=True)
    document = tomlkit.parse((setup.pack.folder / PACK).read_text(encoding="utf-8"))
    if folder.resolve() != setup.pack.folder.resolve():
        _make_absolute(setup, document)
    if trained_here:
        document["experts"]["prompt"] = "plain"  # type: ignore[index]
    for name, source in experts.items():
        _put(document, ("experts", "adapters", name), _take(source, folder, "experts", name))
    if pcm:
        _put(document, ("pcm", "adapter"), _take(pcm / ADAPTER, folder, "pcm"))
        _copy(pcm / HEAD, folder / "pcm" / HEAD)
        head = {"file": f"pcm/{HEAD}", "sha256": file_sha256(folder / "pcm" / HEAD)}
        _put(document, ("pcm", "head"), head)
    for name, source in models.items():
        table = _take(source, folder, "rewards", name)
        _copy(source / HEAD, folder / table["folder"] / HEAD)
        table["head_sha256"] = file_sha256(folder / table["folder"] / HEAD)
        _put(document, ("rewards", name), table)
    (folder / PACK).write_text(tomlkit.dumps(document), encoding="utf-8")
    return load_pack(folder)


def check_experts(setup: Setup) -> None:
    """Before hours of work: no expert's training was cut off, and written answers have readers.

    Raises:
        PackError: names the poles that have no adapter.
    """
    there, _ = _experts(setup)
    missing = [pole.name for pole in setup.pack.space.poles if pole.name not in there]
    if setup.recipe.pcm.answers and missing:
        raise PackError(_untrained("experts", missing))


def check_rewards(setup: Setup) -> None:
    """Before hours of work: every pole has a reward model, or another scorer in the recipe.

    Raises:
        PackError: names the poles that have none.
    """
    scored = {*_rewards(setup), *setup.recipe.scorers}
    missing = [pole.name for pole in setup.pack.space.poles if pole.name not in scored]
    if missing:
        raise PackError(_untrained("rewards", missing))


def any_trained(setup: Setup) -> bool:
    """Whether there are experts or reward models at all, here or in the pack."""
    return bool(_experts(setup)[0] or _rewards(setup))


def _experts(setup: Setup) -> tuple[dict[str, Path], bool]:
    """Folders of the adapters that there are, by pole; and whether any was trained here.

    Where any was, all must be there: an expert without one would be the bare base. Where none was,
    the pack's own stand beside prompts as its author wrote them.
    """
    others = {*setup.pack.spec.experts.checkpoints, *setup.pack.spec.experts.remotes}
    folders = {
        pole.name: expert_folder(setup, pole)
        for pole in setup.pack.space.poles
        if pole.name not in others
    }
    there = {name: folder for name, folder in folders.items() if _holds(folder, WEIGHTS_FILE)}
    packed = {n: setup.pack.path(a.folder) for n, a in setup.pack.spec.experts.adapters.items()}
    begun = any(folder != packed.get(name) for name, folder in there.items())
    missing = [name for name in folders if name not in there]
    if begun and missing:
        raise PackError(_untrained("experts", missing))
    return there, begun


def _rewards(setup: Setup) -> dict[str, Path]:
    """Folders of the reward models by pole: none, or one for each that has no other scorer."""
    poles = setup.pack.space.poles
    folders = {pole.name: reward_folder(setup, pole) for pole in poles}
    there = {name: f for name, f in folders.items() if _holds(f, WEIGHTS_FILE, HEAD)}
    missing = [name for name in folders if name not in {*there, *setup.recipe.scorers}]
    if there and missing:
        raise PackError(_untrained("rewards", missing))
    return there


def _holds(folder: Path, *files: str) -> bool:
    return all((folder / name).is_file() for name in (CONFIG_FILE, *files))


def _untrained(stage: str, poles: Sequence[str]) -> str:
    options = " ".join(f"--pole {name}" for name in poles)
    return f"{stage}: {', '.join(poles)} have not been trained: run train {stage} {options} first."


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
