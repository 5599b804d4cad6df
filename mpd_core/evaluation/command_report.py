"""Commands that read stored runs: reports, and validation of the text measures."""

from __future__ import annotations

import json as json_
from pathlib import Path
from typing import Annotated, Any

import typer

from mpd_core.console import tell
from mpd_core.evaluation.command_parts import (
    PROMPTS_HELP,
    PairsOption,
    folder_of,
    held_out,
    needs,
    plain_styles,
    root_of,
    server_options,
    styles,
    votes_of,
)
from mpd_core.options import (
    DeviceOption,
    JsonOption,
    OutOption,
    PackOption,
    QuantizeOption,
    listed,
    with_options_of,
)
from mpd_core.packs import load_pack
from mpd_core.training.data import Split


def report(
    out: OutOption = None,
    pack: PackOption = None,
    json: JsonOption = False,
) -> None:
    """Tables of a run, from its stored replies and verdicts; written beside it, and printed."""
    loaded = load_pack(pack)
    needs()
    from mpd_core.evaluation.markdown import markdown
    from mpd_core.evaluation.report import report as reported

    figures = reported(loaded, folder_of(loaded, out), held_out(loaded), votes_of(loaded))
    print(json_.dumps(figures, indent=1) if json else markdown(figures))


def validate(
    split: Annotated[Split, typer.Option(help="Of the written answers.")] = "test",
    pack: PackOption = None,
    json: JsonOption = False,
) -> None:
    """How well the text measures read the written answers, by preference and dimension.

    And those that the experts learn from, of which nothing was fitted, where they are others.
    """
    loaded = load_pack(pack)
    needs()
    from mpd_core.evaluation import tables
    from mpd_core.evaluation.measures import TextJudge

    judge = TextJudge.of(loaded)
    figures = tables.validation(judge, loaded.space, styles(loaded).split(split))
    others = plain_styles(loaded)
    if rows := others.split(split) if others else ():
        figures["experts"] = tables.validation(judge, loaded.space, rows)
    print(json_.dumps(figures, indent=1) if json else tables.validation_text(figures))


def calibrate(
    pack: PackOption = None,
    out: Annotated[Path | None, typer.Option(help="Default: scales.json beside the pack.")] = None,
) -> None:
    """Fit the text measures' scales on the training split of a pack's written answers."""
    loaded = load_pack(pack)
    needs()
    from mpd_core.evaluation.calibration import calibrate as fitted
    from mpd_core.evaluation.measures import measures_of
    from mpd_core.evaluation.scales import FILE, save_scales

    answers = styles(loaded)
    train = answers.split("train")
    scales = fitted(loaded.space, measures_of(loaded), train)
    facts = {
        "kind": "fitted on the written answers' surface measures, not a neural model",
        "prompts": len(train),
        "data_sha256": answers.sha256,
    }
    save_scales(out or loaded.folder / FILE, scales, facts)
    print(f"Written: {out or loaded.folder / FILE}")


@with_options_of(server_options)
def full(
    prompts: Annotated[
        list[str] | None,
        typer.Option(help=f"{PROMPTS_HELP}; repeatable; default: test."),
    ] = None,
    methods: Annotated[str | None, typer.Option(help="With commas; default: all but dare.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most prompts of each set.")] = 50,
    minutes: Annotated[
        float, typer.Option(help="For everything: sets are cut to whole prompts that fit.")
    ] = 25.0,
    judges: Annotated[
        str, typer.Option(help="With commas: measures, rewards, server.")
    ] = "measures,rewards",
    pairs: PairsOption = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest reply, in tokens.")] = 160,
    out: OutOption = None,
    pack: PackOption = None,
    quantize: QuantizeOption = None,
    device: DeviceOption = None,
    **server: Any,
) -> None:
    """Generate, judge and report several sets of prompts within a time; then make report."""
    loaded = load_pack(pack)
    needs()
    from mpd_core.evaluation.full import Settings
    from mpd_core.evaluation.full import full as run_all
    from mpd_core.evaluation.judges import SERVER
    from mpd_core.evaluation.report import HTML
    from mpd_core.evaluation.report import report as reported

    settings = Settings(
        tuple(prompts or ("test",)),
        methods,
        limit,
        minutes,
        listed(judges),
        server_options(**server) if SERVER in listed(judges) else None,
        pairs,
        sampling=loaded.spec.decode.sampling(max_new_tokens=max_new_tokens, temperature=0.0),
        quantize=quantize,
        device=device,
    )
    answers = held_out(loaded)
    for folder in run_all(loaded, settings, out or root_of(loaded), answers, tell):
        reported(loaded, folder, answers, votes_of(loaded))
        print(f"Written: {folder / HTML}")


def readme(
    out: OutOption = None,
    pack: PackOption = None,
    file: Annotated[Path, typer.Option(help="Whose results are rebuilt.")] = Path("README.md"),
) -> None:
    """Rebuild README's table and the pack's RESULTS.md; runs on this machine are stored first."""
    loaded = load_pack(pack)
    needs()
    from mpd_core.evaluation.readme import keep, measured, rewrite, runs_of, stored
    from mpd_core.evaluation.report import report as reported

    answers = held_out(loaded)
    for folder in runs_of(out or root_of(loaded)):
        reported(loaded, folder, answers, votes_of(loaded))
        tell(f"Stored: {keep(loaded, folder)}")
    whole = rewrite(file, loaded, stored(loaded), measured(loaded, out or root_of(loaded)))
    print(f"Written: {file}, {whole}")


def efficiency(
    bench: Annotated[Path, typer.Argument(help="What python -m mpd_core bench has printed.")],
    out: OutOption = None,
    pack: PackOption = None,
) -> None:
    """The paper's 32 requests and its cost model beside what the bench has measured."""
    loaded = load_pack(pack)
    from mpd_core.evaluation.efficiency import efficiency as figures
    from mpd_core.evaluation.efficiency import save

    print(f"Written: {save(figures(bench), out or root_of(loaded) / 'efficiency')}")
