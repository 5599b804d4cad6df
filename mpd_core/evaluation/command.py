"""The commands ``python -m mpd_core evaluate ...``; light, so that ``--help`` does not wait."""

from __future__ import annotations

import json as json_
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mpd_core.errors import MPDError
from mpd_core.packs import Pack, load_pack

if TYPE_CHECKING:
    from mpd_core.training.data import Styles

evaluate = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Replies by every method, judged; install what it needs with make train.",
)

PackOption = Annotated[
    str | None, typer.Option("--pack", help="Name of a pack, or path of a pack.toml.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@evaluate.command()
def validate(
    split: Annotated[str, typer.Option(help="Of the written answers: valid or test.")] = "test",
    pack: PackOption = None,
    json: JsonOption = False,
) -> None:
    """How well the text measures read the written answers, by preference and dimension."""
    loaded = load_pack(pack)
    _needs()
    from mpd_core.evaluation import tables
    from mpd_core.evaluation.measures import TextJudge

    rows = _styles(loaded).split(tables.split_of(split))
    figures = tables.validation(TextJudge.of(loaded), loaded.space, rows)
    print(json_.dumps(figures, indent=1) if json else tables.validation_text(figures))


@evaluate.command()
def calibrate(
    pack: PackOption = None,
    out: Annotated[Path | None, typer.Option(help="Default: scales.json beside the pack.")] = None,
) -> None:
    """Fit the text measures' scales on the training split of a pack's written answers."""
    loaded = load_pack(pack)
    _needs()
    from mpd_core.evaluation.measures import calibrate as fitted
    from mpd_core.evaluation.measures import measures_of
    from mpd_core.evaluation.scales import FILE, save_scales

    styles = _styles(loaded)
    train = styles.split("train")
    scales = fitted(loaded.space, measures_of(loaded), train)
    facts = {
        "kind": "fitted on the written answers' surface measures, not a neural model",
        "prompts": len(train),
        "data_sha256": styles.sha256,
    }
    save_scales(out or loaded.folder / FILE, scales, facts)
    print(f"Written: {out or loaded.folder / FILE}")


def _styles(pack: Pack) -> Styles:
    from mpd_core.training.data import load_styles
    from mpd_core.training.recipe import load_recipe

    return load_styles(pack.path(load_recipe(pack).data.file))


def _needs() -> None:
    try:
        import mpd_core.evaluation.measures  # noqa: F401
    except ImportError as error:
        raise MPDError(
            f"Evaluation needs the package '{error.name}': run make train, or "
            "pip install -r mpd_core/training/requirements.txt."
        ) from error


def _tell(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
