"""Helpers that the evaluation commands share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mpd_core.errors import MPDError
from mpd_core.packs import Pack

if TYPE_CHECKING:
    from mpd_core.evaluation.votes import Vote
    from mpd_core.training.data import Styled, Styles


def folder_of(pack: Pack, out: Path | None) -> Path:
    """The folder of one run."""
    return out or root_of(pack) / "evaluation"


def root_of(pack: Pack) -> Path:
    """Default folder of a pack's runs."""
    return Path("runs") / pack.spec.name


def held_out(pack: Pack) -> Sequence[Styled]:
    """Written answers of the test split; a pack without a recipe has none."""
    from mpd_core.training.recipe import FILE

    return styles(pack).split("test") if (pack.folder / FILE).is_file() else ()


def styles(pack: Pack) -> Styles:
    """A pack's written answers."""
    from mpd_core.training.data import load_styles
    from mpd_core.training.recipe import load_recipe

    return load_styles(pack.path(load_recipe(pack).data.file))


def plain_styles(pack: Pack) -> Styles | None:
    """The answers that a pack's experts learn from, where they are others than ``styles``.

    Nothing of the text measures is fitted on them.
    """
    from mpd_core.training.data import load_styles
    from mpd_core.training.recipe import load_recipe

    file = load_recipe(pack).data.experts
    return load_styles(pack.path(file)) if file else None


def needs() -> None:
    """Raises ``MPDError`` where a package that evaluation needs is not installed."""
    try:
        import mpd_core.evaluation.measures  # noqa: F401
    except ImportError as error:
        raise MPDError(
            f"Evaluation needs the package '{error.name}': run make train, or "
            "pip install -e '.[training]'."
        ) from error


def votes_of(pack: Pack) -> list[Vote]:
    """People's votes on this pack, where there are any on this machine."""
    from mpd_core.evaluation.votes import FILE, Votes, folder

    file = folder() / FILE
    if not file.is_file():
        return []
    return [vote for vote in Votes(file).all() if vote.pack == pack.spec.name]
