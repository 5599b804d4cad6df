"""Commands that make a run: generate replies, and judge them."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from mpd_core.console import tell
from mpd_core.errors import RequestError
from mpd_core.evaluation import JudgeName
from mpd_core.evaluation.command_parts import (
    PROMPTS_HELP,
    PairsOption,
    folder_of,
    held_out,
    needs,
    server_options,
    unlearned,
)
from mpd_core.evaluation.record import among
from mpd_core.options import (
    DeviceOption,
    OutOption,
    PackOption,
    QuantizeOption,
    listed,
    with_options_of,
)
from mpd_core.packs import Pack, load_pack


def run(
    prompts: Annotated[str, typer.Option(help=PROMPTS_HELP)] = "test",
    methods: Annotated[
        str | None, typer.Option(help="With commas; default: all, and uniform in other spaces.")
    ] = None,
    preferences: Annotated[
        str | None, typer.Option(help="Codes, with commas; default: all of the pack's.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first prompts.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Longest reply, in tokens.")] = None,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    out: OutOption = None,
    pack: PackOption = None,
    quantize: QuantizeOption = None,
    device: DeviceOption = None,
) -> None:
    """Generate replies by every method, preference and prompt; stored ones are reused."""
    loaded = load_pack(pack)
    needs()
    from mpd_core.evaluation.jobs import content_of, jobs_of, methods_of
    from mpd_core.evaluation.prompts import prompts_of
    from mpd_core.evaluation.record import REPLIES, define
    from mpd_core.evaluation.store import Lines, missing

    sampling = loaded.spec.decode.sampling(max_new_tokens=max_new_tokens, temperature=temperature)
    found = prompts_of(loaded, prompts, limit)
    codes = _codes(loaded, preferences)
    jobs = jobs_of(loaded, found, methods_of(loaded, methods), codes, sampling, quantize)
    folder = folder_of(loaded, out)
    define(loaded, content_of(loaded, quantize), prompts, codes, jobs).save(folder)
    waiting = missing(Lines(folder / REPLIES), jobs)
    tell(f"{len(jobs)} replies, {len(waiting)} to be generated, in {folder}")
    # Here and not above: a refusal should not wait for torch.
    from mpd_core.evaluation.generators import Generators

    with closing(Generators(loaded, tell, quantize=quantize, device=device)) as generators:
        generators.run(waiting, folder)
    print(f"Written: {folder / REPLIES}")


@with_options_of(server_options)
def judge(
    judge: Annotated[JudgeName, typer.Option("--judge", help="Who judges.")] = "measures",
    methods: Annotated[
        str | None, typer.Option(help="Only pairs of these, with commas; default: all that meet.")
    ] = None,
    pairs: PairsOption = None,
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
    out: OutOption = None,
    pack: PackOption = None,
    **server: Any,
) -> None:
    """Judge pairs of a run's replies: each dimension, both orders; stored verdicts are reused."""
    loaded = load_pack(pack)
    needs()
    from mpd_core.evaluation.judges import CARD_PAIRS, SERVER, judge_named, judge_run
    from mpd_core.evaluation.judging import READERS

    folder = folder_of(loaded, out)
    if judge == READERS:
        _by_hand(loaded, folder, verdicts or [])
        return
    asked = judge_named(judge, loaded, server_options(**server) if judge == SERVER else None, tell)
    if known is None and judge == SERVER:
        known = CARD_PAIRS
    met, answers = listed(methods), held_out(loaded)
    judge_run(loaded, asked, folder, answers, methods=met, pairs=pairs, known=known, single=single)
    print(f"Judged by {asked.name}: {folder}")


def _by_hand(pack: Pack, folder: Path, verdicts: Sequence[Path]) -> None:
    from mpd_core.evaluation.readers import Readers, bring
    from mpd_core.evaluation.record import load_run, replies_of

    if not verdicts:
        raise RequestError("--judge readers needs --verdicts, a folder of evaluate sheets.")
    run = load_run(folder)
    readers = Readers(pack.space, replies_of(folder, run), run.methods, unlearned(pack))
    replies, pairs = bring(readers, verdicts, folder)
    print(f"Read by hand: {replies} replies and {pairs} pairs; stored in {folder}")


def sheets(
    folder: Annotated[Path, typer.Argument(help="New; one is made for all readers.")],
    readers: Annotated[int, typer.Option(min=1, max=100, help="Among whom items are dealt.")] = 4,
    methods: Annotated[str | None, typer.Option(help="With commas; default: all.")] = None,
    known: Annotated[
        int, typer.Option(min=0, help="Prompts whose written answers are mixed in.")
    ] = 2,
    seed: Annotated[int | None, typer.Option(help="Of the order; default: drawn.")] = None,
    out: OutOption = None,
    pack: PackOption = None,
) -> None:
    """Sheets for blind readers, who judge by hand: see evaluate judge --judge readers."""
    loaded = load_pack(pack)
    needs()
    from mpd_core.evaluation.judging import drawn
    from mpd_core.evaluation.record import load_run, replies_of
    from mpd_core.evaluation.sheets import write_sheets

    run = folder_of(loaded, out)
    found = load_run(run)
    met = among(found.methods, listed(methods))
    replies = [row for row in replies_of(run, found) if row["method"] in met]
    answers = drawn(held_out(loaded), known)
    drawn_by = secrets.randbelow(1 << 32) if seed is None else seed
    count = write_sheets(loaded.space, replies, answers, folder, readers, drawn_by)
    print(f"Written: {count} items in {folder}; nobody who reads may see key.json")


def _codes(pack: Pack, chosen: str | None) -> list[str]:
    if chosen is None:
        return [preference.code for preference in pack.space]
    names = listed(chosen)
    if not names:
        raise RequestError("--preferences: give one code or more, with commas.")
    return list(dict.fromkeys(pack.space.parse(name).code for name in names))
