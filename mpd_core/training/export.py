"""From trained weights to a pack: in memory while training goes on, or as a folder to publish."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomlkit
from safetensors import safe_open
from safetensors.torch import save_file

from mpd_core.engine.plan import ANCHOR
from mpd_core.errors import PackError
from mpd_core.models.adapter_config import CONFIG_FILE
from mpd_core.models.adapters import WEIGHTS_FILE
from mpd_core.packs import Pack, file_sha256, load_pack
from mpd_core.packs.schema import PackSpec
from mpd_core.saving import replacing
from mpd_core.training.adapters.experts import anchor_folder, expert_folder
from mpd_core.training.adapters.rewards import reward_folder
from mpd_core.training.context import TrainingContext
from mpd_core.training.results import ADAPTER, HEAD

PACK = "pack.toml"


def trained_pack(setup: TrainingContext, pcm: Path | None = None) -> Pack:
    """A pack in memory, with the weights trained so far, for the engine to open.

    Nothing is written or copied: weights are read where training keeps them. It has trained all
    experts, or none: those of the pack count, too. ``pcm`` is a folder with an adapter and a head.

    Raises:
        PackError: some weights are missing.
    """
    adapters, trained_here = _adapters(setup, pcm)
    tables = setup.pack.spec.model_dump()
    if trained_here:
        tables["experts"]["prompt"] = "plain"
    for keys, source in adapters.items():
        sha256 = file_sha256(source / WEIGHTS_FILE)
        _put(tables, keys, {"folder": source.resolve(), "sha256": sha256})
    if pcm:
        head = (pcm / HEAD).resolve()
        tables["pcm"]["head"] = {"file": head, "sha256": file_sha256(head)}
    return Pack(PackSpec.model_validate(tables), setup.pack.folder)


def write_pack(
    setup: TrainingContext, folder: Path, pcm: Path | None = None, *, keep: float = 1.0
) -> Pack:
    """Write the pack with its trained weights and reward models to a folder: TOML and weight files.

    As ``trained_pack``; of the PCM's scores it ``keep``s a share, see ``PCMTrainSpec.keep``.

    Raises:
        PackError: some weights are missing, or the pack does not hold together.
    """
    adapters, trained_here = _adapters(setup, pcm)
    models = _rewards(setup)
    folder.mkdir(parents=True, exist_ok=True)
    document = tomlkit.parse((setup.pack.folder / PACK).read_text(encoding="utf-8-sig"))
    if folder.resolve() != setup.pack.folder.resolve():
        _make_absolute(setup, document)
    if trained_here:
        document["experts"]["prompt"] = "plain"  # type: ignore[index]
    for keys, source in adapters.items():
        place = "pcm" if keys[0] == "pcm" else f"experts/{keys[-1]}"
        _put(document, keys, _take(source, folder, place))
    if pcm:
        head = folder / "pcm" / HEAD
        _scale(pcm / HEAD, head, keep)
        _put(document, ("pcm", "head"), {"file": f"pcm/{HEAD}", "sha256": file_sha256(head)})
    if models:
        table = _take(models, folder, "rewards")
        _copy(models / HEAD, folder / "rewards" / HEAD)
        table["head_sha256"] = file_sha256(folder / "rewards" / HEAD)
        document.pop("rewards", None)
        _put(document, ("rewards",), table)
    toml = folder / PACK
    toml.write_text(tomlkit.dumps(document), encoding="utf-8")
    for file in folder.rglob("*.safetensors"):  # safetensors leaves its files to the owner alone
        file.chmod(toml.stat().st_mode)
    return load_pack(folder)


def _adapters(setup: TrainingContext, pcm: Path | None) -> tuple[dict[tuple[str, ...], Path], bool]:
    """Folders of all trained adapters, by their keys in ``pack.toml``; see ``_experts``."""
    experts, trained_here = _experts(setup)
    found: dict[tuple[str, ...], Path] = {
        ("experts", "adapters", name): source for name, source in experts.items()
    }
    if trained_here and _holds(anchor_folder(setup), WEIGHTS_FILE):
        found["experts", ANCHOR] = anchor_folder(setup)
    if pcm:
        found["pcm", "adapter"] = pcm / ADAPTER
    return found, trained_here


def _scale(source: Path, target: Path, share: float) -> None:
    """Copy a head with its scores scaled down, which moves its softmax towards uniform weights."""
    if share == 1.0:
        _copy(source, target)
        return
    with safe_open(source, "pt") as saved:
        tensors = {name: saved.get_tensor(name) * share for name in saved.keys()}  # noqa: SIM118
        metadata = saved.metadata()
    with replacing(target) as scratch:
        save_file(tensors, scratch, metadata=metadata)


def check_experts(setup: TrainingContext) -> None:
    """Before hours of work: no expert's training was cut off, and texts that experts are to read
    have readers.

    Raises:
        PackError: names the poles that have no adapter, or a prompt that is not read here.
    """
    there, _ = _experts(setup)
    missing = [pole.name for pole in setup.pack.space.poles if pole.name not in there]
    if not (setup.recipe.pcm.answers or setup.recipe.pcm.algorithm == "token_credit"):
        return
    if missing:
        raise PackError(_untrained(missing))
    if trained_pack(setup).spec.experts.prompt != "plain":
        raise PackError(
            f"{setup.pack.folder / PACK}: experts.prompt is not 'plain', and [pcm.answers] and "
            "token_credit read texts behind the plain prompt: train the experts here, or leave "
            "both out of the recipe."
        )


def check_rewards(setup: TrainingContext) -> None:
    """Check, before hours of work, that every pole has a reward model or another scorer.

    Raises:
        PackError: names the poles that have none.
    """
    names = [pole.name for pole in setup.pack.space.poles]
    missing = [name for name in names if name not in setup.recipe.scorers]
    if missing and not _rewards(setup):
        raise PackError(f"rewards of {', '.join(missing)} are missing: run train rewards first.")


def any_trained(setup: TrainingContext) -> bool:
    """Whether any expert or reward model exists, trained here or in the pack."""
    return bool(_experts(setup)[0] or _rewards(setup))


def _experts(setup: TrainingContext) -> tuple[dict[str, Path], bool]:
    """Folders of the adapters that there are, by pole; and whether any was trained here.

    Where any was, all must be there: an expert without one would be the bare base. Where none was,
    the pack's own stand beside prompts as its author wrote them. The pack's stand in for those that
    nobody began to train here, unless what experts begin with was trained here: they begin
    elsewhere.
    """
    others = {*setup.pack.spec.experts.checkpoints, *setup.pack.spec.experts.remotes}
    folders = {
        pole.name: expert_folder(setup, pole)
        for pole in setup.pack.space.poles
        if pole.name not in others
    }
    there = {name: folder for name, folder in folders.items() if _holds(folder, WEIGHTS_FILE)}
    here = {name: setup.out / "experts" / name for name in (*folders, ANCHOR)}
    own = {name for name, folder in there.items() if folder == here[name] / ADAPTER}
    anew = (here[ANCHOR] / ADAPTER / WEIGHTS_FILE).is_file()
    cut_off = {name for name in folders if name not in own and (anew or here[name].is_dir())}
    begun = bool(own or cut_off)
    missing = [name for name in folders if name not in there or name in cut_off]
    if begun and missing:
        raise PackError(_untrained(missing))
    return there, begun


def _rewards(setup: TrainingContext) -> Path | None:
    """Folder of the reward models; None if there are none.

    Raises:
        PackError: their training was cut off: the pack's own are not what was asked for.
    """
    folder, here = reward_folder(setup), setup.out / "rewards"
    if here.is_dir() and not (here / ADAPTER / WEIGHTS_FILE).is_file():
        raise PackError(f"rewards: {here} was cut off: run train rewards --resume first.")
    return folder if _holds(folder, WEIGHTS_FILE, HEAD) else None


def _holds(folder: Path, *files: str) -> bool:
    return all((folder / name).is_file() for name in (CONFIG_FILE, *files))


def _untrained(poles: Sequence[str]) -> str:
    options = " ".join(f"--pole {name}" for name in poles)
    return f"experts: {', '.join(poles)} have not been trained: run train experts {options} first."


def write_static(folder: Path, weights: Mapping[str, Sequence[float]]) -> None:
    """Write the best static weights of each preference into a pack's TOML."""
    file = folder / PACK
    document = tomlkit.parse(file.read_text(encoding="utf-8-sig"))
    document.pop("static", None)
    document["static"] = {code: [round(w, 4) for w in row] for code, row in weights.items()}
    file.write_text(tomlkit.dumps(document), encoding="utf-8")


def _take(source: Path, folder: Path, place: str) -> dict[str, str]:
    """Copy an adapter into a pack; returns its TOML table."""
    target = folder / place
    target.mkdir(parents=True, exist_ok=True)
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        _copy(source / name, target / name)
    pins = {"sha256": WEIGHTS_FILE, "config_sha256": CONFIG_FILE}
    return {"folder": place, **{key: file_sha256(target / name) for key, name in pins.items()}}


def _copy(source: Path, target: Path) -> None:
    if source.resolve() != target.resolve():
        with replacing(target) as scratch:
            shutil.copyfile(source, scratch)


def _put(document: Any, keys: Sequence[str], value: Mapping[str, Any]) -> None:
    *above, last = keys
    for key in above:
        if key not in document:
            document[key] = tomlkit.table(is_super_table=True)
        document = document[key]
    document[last] = dict(value)


def _make_absolute(setup: TrainingContext, table: Any) -> None:
    """Files and folders are named relative to their pack, and this one lies elsewhere."""
    for key, value in table.items():
        if isinstance(value, dict):
            _make_absolute(setup, value)
        elif key == "folder" or (key == "file" and table.get("kind") != "gguf"):
            table[key] = str(setup.pack.path(Path(value)))
