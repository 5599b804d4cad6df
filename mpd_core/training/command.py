"""The commands ``python -m mpd_core train ...``; light, so that ``--help`` does not wait."""

from __future__ import annotations

import json as json_
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mpd_core.errors import MPDError, RequestError
from mpd_core.packs import load_pack
from mpd_core.preferences import Pole

if TYPE_CHECKING:
    from mpd_core.training.setup import Setup

train = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Train a pack's experts, reward models and PCM; install what they need with make train.",
)

PackOption = Annotated[
    str | None, typer.Option("--pack", help="Name of a pack, or path of a pack.toml.")
]
PoleOption = Annotated[list[str] | None, typer.Option("--pole", help="Only these; repeatable.")]
OutOption = Annotated[Path | None, typer.Option("--out", help="Results; default: runs/NAME.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on where a run was cut off.")]
DryOption = Annotated[
    bool, typer.Option("--dry-run", help="Only say steps, tokens and estimated time.")
]


@train.command()
def experts(
    pack: PackOption = None,
    pole: PoleOption = None,
    out: OutOption = None,
    resume: ResumeOption = False,
    dry_run: DryOption = False,
) -> None:
    """One LoRA expert a pole: fine-tuning on its style, then direct preferences."""
    setup = _open(pack, out)
    if not _only_said(setup, ("experts",), dry_run):
        from mpd_core.training.experts import train_experts

        train_experts(setup, _poles(setup, pole), resume=resume)


@train.command()
def rewards(
    pack: PackOption = None,
    pole: PoleOption = None,
    out: OutOption = None,
    resume: ResumeOption = False,
    dry_run: DryOption = False,
) -> None:
    """One reward model a pole: pairwise loss on single styles and whole preferences."""
    setup = _open(pack, out)
    if not _only_said(setup, ("rewards",), dry_run):
        from mpd_core.training.rewards import train_rewards

        train_rewards(setup, _poles(setup, pole), resume=resume)


@train.command()
def references(pack: PackOption = None, out: OutOption = None, dry_run: DryOption = False) -> None:
    """The baseline's replies to the prompts that the PCM will learn from; made once."""
    setup = _open(pack, out)
    if not _only_said(setup, ("references",), dry_run):
        from mpd_core.training.stages import make_references

        make_references(setup, _tell)


@train.command()
def static(pack: PackOption = None, out: OutOption = None, dry_run: DryOption = False) -> None:
    """The best constant weights of each preference, by a grid on validation prompts."""
    setup = _open(pack, out)
    if not _only_said(setup, ("static",), dry_run):
        from mpd_core.training.stages import search_static

        search_static(setup, _tell)


@train.command()
def pcm(
    pack: PackOption = None,
    out: OutOption = None,
    resume: ResumeOption = False,
    dry_run: DryOption = False,
) -> None:
    """The Preference Control Model, by REBEL or PPO as the recipe says."""
    setup = _open(pack, out)
    if not _only_said(setup, ("pcm",), dry_run):
        from mpd_core.training.pcm import train_pcm

        train_pcm(setup, resume=resume, tell=_tell)


@train.command("all")
def everything(
    pack: PackOption = None,
    out: OutOption = None,
    resume: ResumeOption = False,
    dry_run: DryOption = False,
) -> None:
    """Experts, rewards, references, static weights and PCM, one after the other."""
    setup = _open(pack, out)
    stages = ("experts", "rewards", "references", "static", "pcm")
    if not _only_said(setup, stages, dry_run):
        from mpd_core.training.stages import train_all

        train_all(setup, resume=resume, tell=_tell)


@train.command()
def install(
    pack: PackOption = None,
    out: OutOption = None,
    into: Annotated[
        Path | None, typer.Option("--into", help="Another folder than the pack's own.")
    ] = None,
) -> None:
    """Copy trained weights into the pack and name them, with hashes, in its pack.toml."""
    setup = _open(pack, out)
    from mpd_core.training.stages import install as put

    _tell(f"Written: {put(setup, into or setup.pack.folder)}")


@train.command()
def report(
    pack: PackOption = None,
    out: OutOption = None,
    recompute: Annotated[
        bool, typer.Option("--recompute", help="From the weights, on prompts never trained on.")
    ] = False,
    only: Annotated[
        str | None, typer.Option(help="With commas: rewards, experts, mixtures.")
    ] = None,
    external: Annotated[
        Path | None, typer.Option(help="Folder of third-party pairs, for the reward models.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Held-out figures of the pack: those stored with it, or computed anew."""
    from mpd_core.training.figures import read, text

    loaded = load_pack(pack)
    if recompute:
        from mpd_core.training.stages import assess

        chosen = tuple(name.strip() for name in only.split(",")) if only else ()
        assess(_open(pack, out), chosen, external, _tell)
    figures = read(loaded)
    print(json_.dumps(figures, indent=1) if json else text(figures))


def _open(pack: str | None, out: Path | None) -> Setup:
    loaded = load_pack(pack)
    try:
        from mpd_core.training.setup import Setup
    except ImportError as error:
        raise MPDError(
            f"Training needs the package '{error.name}': run make train, or "
            "pip install -r mpd_core/training/requirements.txt."
        ) from error
    return Setup.open(loaded, out, _tell)


def _poles(setup: Setup, names: list[str] | None) -> list[Pole]:
    poles = {pole.name: pole for pole in setup.pack.space.poles}
    for name in names or ():
        if name not in poles:
            raise RequestError(f"Unknown pole '{name[:60]}': use {', '.join(poles)}.")
    return [pole for name, pole in poles.items() if not names or name in names]


def _only_said(setup: Setup, stages: tuple[str, ...], dry_run: bool) -> bool:
    """Say what is going to be done; True if that was all."""
    from mpd_core.training.estimate import estimate

    _tell(estimate(setup, stages, measure=dry_run))
    return dry_run


def _tell(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
