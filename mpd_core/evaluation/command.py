"""The commands ``python -m mpd_core evaluate ...``; light, so that ``--help`` does not wait.

Those that make a run are here: generate replies, and judge them.
"""

from __future__ import annotations

import secrets
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from mpd_core import options
from mpd_core.console import tell
from mpd_core.errors import RequestError
from mpd_core.evaluation import JudgeName, command_report
from mpd_core.evaluation import command_parts as parts


def run(
    prompts: Annotated[str, typer.Option(help=parts.PROMPTS_HELP)] = "test",
    methods: Annotated[
        str | None, typer.Option(help="With commas; default: all, and uniform in other spaces.")
    ] = None,
    preferences: Annotated[
        str | None, typer.Option(help="Codes, with commas; default: all of the pack's.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first prompts.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Longest reply, in tokens.")] = None,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    out: options.OutOption = None,
    pack: options.PackOption = None,
    quantize: options.QuantizeOption = None,
    device: options.DeviceOption = None,
) -> None:
    """Generate replies by every method, preference and prompt; stored ones are reused."""
    loaded = parts.opened(pack)
    from mpd_core.evaluation.jobs import define, jobs_of, methods_of, missing
    from mpd_core.evaluation.prompts import prompts_of
    from mpd_core.evaluation.record import REPLIES, Lines

    sampling = loaded.spec.decode.sampling(max_new_tokens=max_new_tokens, temperature=temperature)
    found = prompts_of(loaded, prompts, limit)
    chosen = (
        loaded.space
        if preferences is None
        else map(loaded.space.parse, options.listed(preferences))
    )
    codes = list(dict.fromkeys(preference.code for preference in chosen))
    if not codes:
        raise RequestError("--preferences: give one code or more, with commas.")
    jobs = jobs_of(loaded, found, methods_of(loaded, methods), codes, sampling, quantize)
    folder = parts.folder_of(loaded, out)
    define(loaded, prompts, codes, jobs, quantize).save(folder)
    waiting = missing(Lines(folder / REPLIES).rows, jobs)
    tell(f"{len(jobs)} replies, {len(waiting)} to be generated, in {folder}")
    # Here and not above: a refusal should not wait for torch.
    from mpd_core.evaluation.generators import Generators

    with closing(Generators(loaded, tell, quantize=quantize, device=device)) as generators:
        generators.run(waiting, folder)
    print(f"Written: {folder / REPLIES}")


@options.with_options_of(parts.server_options)
def judge(
    judge: Annotated[JudgeName, typer.Option("--judge", help="Who judges.")] = "measures",
    methods: Annotated[
        str | None, typer.Option(help="Only pairs of these, with commas; default: all that meet.")
    ] = None,
    pairs: parts.PairsOption = None,
    known: Annotated[
        int | None, typer.Option(min=0, help="Pairs of written answers for the judge's card.")
    ] = None,
    single: Annotated[
        bool, typer.Option(help="Ask as well which poles each reply shows on its own.")
    ] = True,
    verdicts: Annotated[
        list[Path] | None,
        typer.Option(help="Of readers: a folder of sheets with what they wrote; repeatable."),
    ] = None,
    out: options.OutOption = None,
    pack: options.PackOption = None,
    **server: Any,
) -> None:
    """Judge pairs of a run's replies: each dimension, both orders; stored verdicts are reused."""
    loaded = parts.opened(pack)
    from mpd_core.evaluation.judges import CARD_PAIRS, SERVER, judge_named, judge_run
    from mpd_core.evaluation.judging import READERS

    folder = parts.folder_of(loaded, out)
    if judge == READERS:
        from mpd_core.evaluation.readers import Readers, bring
        from mpd_core.evaluation.record import load_run, replies_of

        if not verdicts:
            raise RequestError("--judge readers needs --verdicts, a folder of evaluate sheets.")
        run, answers = load_run(folder), parts.answers_of(loaded, "valid", "test")
        readers = Readers(loaded.space, replies_of(folder, run), run.methods, answers)
        read, met = bring(readers, verdicts, folder)
        print(f"Read by hand: {read} replies and {met} pairs; stored in {folder}")
        return
    asked = judge_named(
        judge, loaded, parts.server_options(**server) if judge == SERVER else None, tell
    )
    if known is None and judge == SERVER:
        known = CARD_PAIRS
    chosen, answers = options.listed(methods), parts.answers_of(loaded, "test")
    how = {"pairs": pairs, "known": known}
    judge_run(loaded, asked, folder, answers, methods=chosen, **how, single=single)
    print(f"Judged by {asked.name}: {folder}")


def sheets(
    folder: Annotated[Path, typer.Argument(help="New; one is made for all readers.")],
    readers: Annotated[int, typer.Option(min=1, max=100, help="Among whom items are dealt.")] = 4,
    methods: Annotated[str | None, typer.Option(help="With commas; default: all.")] = None,
    known: Annotated[
        int, typer.Option(min=0, help="Prompts whose written answers are mixed in.")
    ] = 2,
    seed: Annotated[int | None, typer.Option(help="Of the order; default: drawn.")] = None,
    out: options.OutOption = None,
    pack: options.PackOption = None,
) -> None:
    """Sheets for blind readers, who judge by hand: see evaluate judge --judge readers."""
    loaded = parts.opened(pack)
    from mpd_core.evaluation.judges import drawn
    from mpd_core.evaluation.record import among, load_run, replies_of
    from mpd_core.evaluation.sheets import write_sheets

    run = parts.folder_of(loaded, out)
    found = load_run(run)
    met = among(found.methods, options.listed(methods))
    replies = [row for row in replies_of(run, found) if row["method"] in met]
    answers = drawn(parts.answers_of(loaded, "test"), known)
    drawn_by = secrets.randbelow(1 << 32) if seed is None else seed
    count = write_sheets(loaded.space, replies, answers, folder, readers, drawn_by)
    print(f"Written: {count} items in {folder}; nobody who reads may see key.json")


evaluate = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Replies by every method, judged; install what it needs with make train.",
)
for _command in (run, judge, sheets, *command_report.COMMANDS):
    evaluate.command()(_command)
