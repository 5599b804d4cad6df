"""Commands that read stored runs: reports, and validation of the text measures."""

from __future__ import annotations

import json as json_
from pathlib import Path
from typing import Annotated, Any

import typer

from mpd_core import options
from mpd_core.console import tell
from mpd_core.evaluation import command_parts as parts
from mpd_core.packs import Pack, load_pack
from mpd_core.training.data import Split


def report(
    out: options.OutOption = None, pack: options.PackOption = None, json: options.JsonOption = False
) -> None:
    """Tables of a run, from its stored replies and verdicts; written beside it, and printed."""
    loaded = parts.opened(pack)
    from mpd_core.evaluation.report import markdown

    found = _reported(loaded, parts.folder_of(loaded, out))
    print(json_.dumps(found, indent=1) if json else markdown(found))


def _reported(pack: Pack, folder: Path) -> dict[str, Any]:
    """Write the report of a run, with people's votes where there are any here; its figures."""
    from mpd_core.evaluation import votes
    from mpd_core.evaluation.report import report

    file = votes.folder() / votes.FILE
    cast = votes.Votes(file).all() if file.is_file() else []
    own = [vote for vote in cast if vote.pack == pack.spec.name]
    return report(pack, folder, parts.answers_of(pack, "test"), own)


def validate(
    split: Annotated[Split, typer.Option(help="Of the written answers.")] = "test",
    pack: options.PackOption = None,
    json: options.JsonOption = False,
) -> None:
    """How well the text measures read the written answers, by preference and dimension.

    And those that the experts learn from, where they are others.
    """
    loaded = parts.opened(pack)
    from mpd_core.evaluation.measures import TextJudge
    from mpd_core.evaluation.written import validation, validation_text

    judge = TextJudge.of(loaded)
    answers = {name: styles.split(split) for name, styles in parts.styles(loaded).items()}
    figures = validation(judge, loaded.space, answers["written"])
    if answers.get("experts"):
        figures["experts"] = validation(judge, loaded.space, answers["experts"])
    print(json_.dumps(figures, indent=1) if json else validation_text(figures))


def calibrate(
    pack: options.PackOption = None,
    out: Annotated[Path | None, typer.Option(help="Default: scales.json beside the pack.")] = None,
) -> None:
    """Fit the text measures' scales on the training split of a pack's written answers.

    And of those that its experts learn from, where they are others.
    """
    loaded = parts.opened(pack)
    from mpd_core.evaluation.measures import FITTED, measures_of
    from mpd_core.evaluation.scales import FILE, save_scales
    from mpd_core.evaluation.written import calibrate as fitted

    answers = parts.styles(loaded)
    train = {name: styles.split("train") for name, styles in answers.items()}
    facts = {
        "kind": FITTED,
        "prompts": {name: len(rows) for name, rows in train.items()},
        "data_sha256": {name: styles.sha256 for name, styles in answers.items()},
    }
    file = out or loaded.folder / FILE
    save_scales(file, fitted(loaded.space, measures_of(loaded), train), facts)
    print(f"Written: {file}")


@options.with_options_of(parts.server_options)
def full(
    prompts: Annotated[
        list[str] | None,
        typer.Option(help=f"{parts.PROMPTS_HELP}; repeatable; default: test."),
    ] = None,
    methods: Annotated[str | None, typer.Option(help="With commas; default: all but dare.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most prompts of each set.")] = 50,
    minutes: Annotated[
        float, typer.Option(help="For everything: sets are cut to whole prompts that fit.")
    ] = 25.0,
    judges: Annotated[
        str, typer.Option(help="With commas: measures, rewards, server.")
    ] = "measures,rewards",
    pairs: parts.PairsOption = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest reply, in tokens.")] = 160,
    out: options.OutOption = None,
    pack: options.PackOption = None,
    quantize: options.QuantizeOption = None,
    device: options.DeviceOption = None,
    **server: Any,
) -> None:
    """Generate, judge and report several sets of prompts within a time; then make report."""
    loaded = parts.opened(pack)
    from mpd_core.evaluation.full import Settings
    from mpd_core.evaluation.full import full as run_all
    from mpd_core.evaluation.judges import SERVER
    from mpd_core.evaluation.report import HTML

    settings = Settings(
        tuple(prompts or ("test",)),
        methods,
        limit,
        minutes,
        options.listed(judges),
        parts.server_options(**server) if SERVER in options.listed(judges) else None,
        pairs,
        sampling=loaded.spec.decode.sampling(max_new_tokens=max_new_tokens, temperature=0.0),
        quantize=quantize,
        device=device,
    )
    root, answers = parts.root_of(loaded, out), parts.answers_of(loaded, "test")
    for folder in run_all(loaded, settings, root, answers, tell):
        _reported(loaded, folder)
        print(f"Written: {folder / HTML}")


def readme(
    out: options.OutOption = None,
    pack: options.PackOption = None,
    file: Annotated[Path, typer.Option(help="Whose results are rebuilt.")] = Path("README.md"),
) -> None:
    """Rebuild README's table and the pack's RESULTS.md; runs on this machine are stored first."""
    loaded = parts.opened(pack)
    from mpd_core.evaluation.readme import keep, measured, rewrite, runs_of, stored

    root = parts.root_of(loaded, out)
    for folder in runs_of(root):
        _reported(loaded, folder)
        tell(f"Stored: {keep(loaded, folder)}")
    whole = rewrite(file, loaded, stored(loaded), measured(loaded, root))
    print(f"Written: {file}, {whole}")


def efficiency(
    bench: Annotated[Path, typer.Argument(help="What python -m mpd_core bench has printed.")],
    out: options.OutOption = None,
    pack: options.PackOption = None,
) -> None:
    """The paper's 32 requests and its cost model beside what the bench has measured."""
    from mpd_core.evaluation.efficiency import efficiency as figures
    from mpd_core.evaluation.efficiency import save

    folder = out or parts.root_of(load_pack(pack), None) / "efficiency"
    print(f"Written: {save(figures(bench), folder)}")


COMMANDS = (report, full, readme, efficiency, validate, calibrate)
