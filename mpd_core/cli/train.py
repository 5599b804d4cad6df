"""The commands ``python -m mpd_core train ...``; light, so that ``--help`` does not wait."""

from __future__ import annotations

import json as json_
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mpd_core.console import tell
from mpd_core.errors import MPDError, RequestError
from mpd_core.method.preferences import Pole
from mpd_core.options import JsonOption, OutOption, PackOption, listed
from mpd_core.packs import load_pack

if TYPE_CHECKING:
    from mpd_core.training.context import TrainingContext

train = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Train a pack's experts, reward models and PCM; install what they need with make train.",
)

PoleOption = Annotated[list[str] | None, typer.Option("--pole", help="Only these; repeatable.")]
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
    """One LoRA expert a pole, fine-tuned on its style whatever the other poles are."""
    _run(["experts"], pack, out, resume, dry_run, pole)


STAGES = {
    "rewards": "Reward models of all poles: pairwise loss on single styles and minimal pairs.",
    "verdicts": "The reward models' head, fitted to what blind readers saw, if the recipe says so.",
    "references": "The baseline's replies to the prompts that the PCM will learn from; made once.",
    "static": "The best constant weights of each preference, by a grid on validation prompts.",
    "pcm": "The Preference Control Model, by REBEL or PPO as the recipe says.",
    "all": "Experts, rewards, verdicts, references, static weights and PCM, one after the other.",
}


def _stage(names: Sequence[str] | None) -> Callable[..., None]:
    """A command that runs these stages."""

    def stage(
        pack: PackOption = None,
        out: OutOption = None,
        resume: ResumeOption = False,
        dry_run: DryOption = False,
    ) -> None:
        _run(names, pack, out, resume, dry_run)

    return stage


for _name, _meaning in STAGES.items():
    train.command(_name, help=_meaning)(_stage(None if _name == "all" else [_name]))


def _run(
    names: Sequence[str] | None,
    pack: str | None,
    out: Path | None,
    resume: bool,
    dry_run: bool,
    poles: list[str] | None = None,
) -> None:
    """Announce some stages and run them; None runs all of them."""
    setup = _open(pack, out)
    chosen = _poles(setup, poles)
    from mpd_core.training.stages import STAGES, Options, lines

    stages = [STAGES[name] for name in names or STAGES]
    works = [work for stage in stages for work in stage.work(setup)]
    tell(lines(setup, works, measure=dry_run))
    if not dry_run:
        for stage in stages:
            stage.run(setup, Options(chosen, resume, tell))


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
    from mpd_core.evaluation.held_out.publish import install as put

    tell(f"Written: {put(setup, into or setup.pack.folder)}")


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
    json: JsonOption = False,
) -> None:
    """Held-out figures of the pack: as stored with it, or recomputed."""
    from mpd_core.evaluation.held_out.card import read, text

    loaded = load_pack(pack)
    if recompute:
        from mpd_core.evaluation.held_out.publish import assess

        assess(_open(pack, out), listed(only), tell)
    figures = read(loaded)
    print(json_.dumps(figures, indent=1) if json else text(figures))


def _open(pack: str | None, out: Path | None) -> TrainingContext:
    # All of several processes would write the same files.
    processes = os.environ.get("WORLD_SIZE", "1")
    if processes.isdecimal() and int(processes) > 1:
        raise RequestError(
            f"WORLD_SIZE is {processes}, and training is one process: start it without torchrun or "
            "accelerate launch."
        )
    loaded = load_pack(pack)
    try:
        from mpd_core.training.context import TrainingContext
    except ImportError as error:
        raise MPDError(
            f"Training needs the package '{error.name}': run make train, or "
            "pip install -e '.[training]'."
        ) from error
    return TrainingContext.open(loaded, out, tell)


def _poles(setup: TrainingContext, names: list[str] | None) -> list[Pole]:
    poles = {pole.name: pole for pole in setup.pack.space.poles}
    for name in names or ():
        if name not in poles:
            raise RequestError(f"Unknown pole '{name[:60]}': use {', '.join(poles)}.")
    return [pole for name, pole in poles.items() if not names or name in names]
