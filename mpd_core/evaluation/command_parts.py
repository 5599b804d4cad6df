"""Helpers that the evaluation commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mpd_core.errors import MPDError, RequestError
from mpd_core.packs import Pack, load_pack
from mpd_core.training.data import Split

if TYPE_CHECKING:
    from mpd_core.training.data import Styled, Styles

PROMPTS_HELP = (
    "A .jsonl or text file, the split test or valid of the pack, or hub:OWNER/NAME/FILE of a data "
    "set on the hub"
)
PairsOption = Annotated[
    int | None, typer.Option("--pairs", min=1, help="Only so many, drawn by a seed.")
]


def server_options(
    url: Annotated[
        str | None, typer.Option(help="Of an OpenAI-compatible server, e.g. http://host/v1.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="That the server judges with.")] = None,
    key_env: Annotated[
        str, typer.Option(help="Environment variable that holds the server's key.")
    ] = "OPENAI_API_KEY",
    price: Annotated[str | None, typer.Option(help="IN,OUT of a million tokens.")] = None,
    most_cost: Annotated[float | None, typer.Option(help="Cap, by those prices.")] = None,
    most_tokens: Annotated[int, typer.Option(help="Cap, in and out together.")] = 2_000_000,
    parallel: Annotated[int, typer.Option(help="Questions at a time.")] = 8,
) -> Any:  # ServerOptions, which would have to be loaded to be named
    """The options of the judge ``server``.

    Raises:
        RequestError: one that cannot be used, or is missing.
    """
    from mpd_core.evaluation.judges.server import ServerOptions
    from mpd_core.evaluation.judges.spending import Limits

    prices = None
    if price is not None:
        try:
            price_in, price_out = (float(part) for part in price.split(","))
        except ValueError:
            raise RequestError(f"--price {price[:40]}: give IN,OUT, e.g. 0.15,0.6.") from None
        prices = price_in, price_out
    limits = Limits(most_tokens, most_cost, prices)
    return ServerOptions(url or "", model or "", key_env, limits, parallel)


def opened(name: str | None) -> Pack:
    """The pack of a command.

    Raises:
        MPDError: it cannot be read, or a package that evaluation needs is not installed.
    """
    pack = load_pack(name)
    try:
        import mpd_core.evaluation.measures  # noqa: F401
    except ImportError as error:
        raise MPDError(
            f"Evaluation needs the package '{error.name}': run make train, or "
            "pip install -e '.[training]'."
        ) from error
    return pack


def root_of(pack: Pack, out: Path | None) -> Path:
    """The folder of a pack's runs."""
    return out or Path("runs") / pack.spec.name


def folder_of(pack: Pack, out: Path | None) -> Path:
    """The folder of one run."""
    return out or root_of(pack, None) / "evaluation"


def answers_of(pack: Pack, *splits: Split) -> list[Styled]:
    """Written answers of some splits; a pack without a recipe has none."""
    from mpd_core.training.recipe import FILE

    found = styles(pack)["written"] if (pack.folder / FILE).is_file() else None
    return [row for split in splits for row in found.split(split)] if found else []


def styles(pack: Pack) -> dict[str, Styles]:
    """A pack's ``written`` answers, and those that its ``experts`` learn from where they are
    others; errors where it has none."""
    from mpd_core.training.data import load_styles
    from mpd_core.training.recipe import load_recipe

    data = load_recipe(pack).data
    files = {"written": data.file, "experts": data.experts}
    return {name: load_styles(pack.path(file)) for name, file in files.items() if file}
