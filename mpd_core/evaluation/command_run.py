"""Commands that make a run: generate replies, and judge them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mpd_core.console import tell
from mpd_core.errors import RequestError
from mpd_core.evaluation import JudgeName
from mpd_core.evaluation.command_parts import folder_of, held_out, needs
from mpd_core.options import (
    DeviceOption,
    OutOption,
    PackOption,
    QuantizeOption,
    listed,
)
from mpd_core.packs import Pack, load_pack

if TYPE_CHECKING:
    from mpd_core.evaluation.judging import Named, Pair
    from mpd_core.evaluation.singles import Single

CARD_PAIRS = 60
"""Default number of known pairs for the card of a judge that costs money."""


def run(
    prompts: Annotated[
        str, typer.Option(help="A .jsonl or text file, or the split test or valid of the pack.")
    ] = "test",
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


def judge(
    judge: Annotated[JudgeName, typer.Option("--judge", help="Who judges.")] = "measures",
    methods: Annotated[
        str | None, typer.Option(help="Only pairs of these, with commas; default: all that meet.")
    ] = None,
    pairs: Annotated[int | None, typer.Option(min=1, help="Only so many, drawn by a seed.")] = None,
    known: Annotated[
        int | None, typer.Option(min=0, help="Pairs of written answers for the judge's card.")
    ] = None,
    single: Annotated[
        bool, typer.Option(help="Ask as well which poles each reply shows on its own.")
    ] = True,
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
    out: OutOption = None,
    pack: PackOption = None,
) -> None:
    """Judge pairs of a run's replies: each dimension, both orders; stored verdicts are reused."""
    loaded = load_pack(pack)
    needs()
    from mpd_core.evaluation.card import known_pairs
    from mpd_core.evaluation.judges import SERVER, judge_named
    from mpd_core.evaluation.judging import VERDICTS, drawn, judge_pairs, pairs_of
    from mpd_core.evaluation.record import load_run, replies_of
    from mpd_core.evaluation.singles import SingleJudge, judge_singles, singles_of

    folder, server = folder_of(loaded, out), None
    found = load_run(folder)
    met = _among(found.methods, listed(methods))
    replies = [row for row in replies_of(folder, found) if row["method"] in met]
    if judge == SERVER:
        from mpd_core.evaluation.judges.server import ServerOptions
        from mpd_core.evaluation.judges.spending import Limits

        limits = Limits(most_tokens, most_cost, _prices(price))
        server = ServerOptions(url or "", model or "", key_env, limits, parallel)
        known = CARD_PAIRS if known is None else known
    asked = judge_named(judge, loaded, server, tell)
    met_pairs = list(pairs_of(loaded.space, replies, met))
    known_ones = known_pairs(loaded.space, held_out(loaded))
    chosen = [*drawn(met_pairs, pairs), *drawn(known_ones, known)]
    alone = singles_of(loaded.space, replies) if single else []
    if server:
        _announce(asked, chosen, alone, folder)
    judge_pairs(asked, chosen, folder)
    if isinstance(asked, SingleJudge):
        judge_singles(asked, alone, folder)
    print(f"Written: {folder / VERDICTS.format(judge=asked.name)}")


def _announce(judge: Named, pairs: Sequence[Pair], alone: Sequence[Single], folder: Path) -> None:
    """What pairs and single replies will cost together: half of it is no estimate."""
    from mpd_core.evaluation import judging, singles
    from mpd_core.evaluation.judges.server import ServerJudge

    if isinstance(judge, ServerJudge):
        judge.announce(judging.unasked(judge, pairs, folder), singles.unasked(judge, alone, folder))


def _among(methods: Sequence[str], chosen: Sequence[str]) -> list[str]:
    if unknown := set(chosen) - set(methods):
        raise RequestError(
            f"--methods: the run has no replies by '{min(unknown)[:60]}': use {', '.join(methods)}."
        )
    return [method for method in methods if not chosen or method in chosen]


def _prices(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        price_in, price_out = (float(part) for part in text.split(","))
    except ValueError:
        raise RequestError(f"--price {text[:40]}: give IN,OUT, e.g. 0.15,0.6.") from None
    return price_in, price_out


def _codes(pack: Pack, chosen: str | None) -> list[str]:
    if chosen is None:
        return [preference.code for preference in pack.space]
    names = listed(chosen)
    if not names:
        raise RequestError("--preferences: give one code or more, with commas.")
    return list(dict.fromkeys(pack.space.parse(name).code for name in names))
