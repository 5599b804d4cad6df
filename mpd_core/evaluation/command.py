"""The commands ``python -m mpd_core evaluate ...``; light, so that ``--help`` does not wait."""

from __future__ import annotations

import json as json_
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mpd_core.errors import MPDError, RequestError
from mpd_core.options import (
    DeviceOption,
    JsonOption,
    OutOption,
    PackOption,
    QuantizeOption,
    listed,
    quantize_of,
)
from mpd_core.packs import Pack, load_pack

if TYPE_CHECKING:
    from mpd_core.evaluation.jobs import Job
    from mpd_core.training.data import Styled, Styles

CARD_PAIRS = 60
"""Of known pairs that a judge is asked about whose answers cost something."""

evaluate = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Replies by every method, judged; install what it needs with make train.",
)


@evaluate.command()
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
    """Generate replies by every method, preference and prompt; what is there is not made anew."""
    loaded = load_pack(pack)
    _needs()
    from mpd_core.evaluation.jobs import content_of, jobs_of, methods_of
    from mpd_core.evaluation.prompts import prompts_of
    from mpd_core.evaluation.record import REPLIES, define
    from mpd_core.evaluation.store import Lines, missing

    sampling = loaded.spec.decode.sampling(max_new_tokens=max_new_tokens, temperature=temperature)
    chosen, found = quantize_of(quantize), prompts_of(loaded, prompts, limit)
    codes = _codes(loaded, preferences)
    jobs = jobs_of(loaded, found, methods_of(loaded, methods), codes, sampling, chosen)
    folder = _folder(loaded, out)
    define(loaded, content_of(loaded, chosen), prompts, codes, jobs).save(folder)
    waiting = missing(Lines(folder / REPLIES), jobs)
    _tell(f"{len(jobs)} replies, {len(waiting)} to be generated, in {folder}")
    _generate(loaded, waiting, folder, quantize=chosen, device=device)
    print(f"Written: {folder / REPLIES}")


@evaluate.command()
def judge(
    judge: Annotated[
        str, typer.Option("--judge", help="Who judges: measures, rewards or server.")
    ] = "measures",
    methods: Annotated[
        str | None, typer.Option(help="Only pairs of these, with commas; default: all that meet.")
    ] = None,
    pairs: Annotated[
        int | None, typer.Option(min=1, help="Only so many pairs, drawn by a fixed seed.")
    ] = None,
    known: Annotated[
        int | None, typer.Option(min=0, help="Pairs of written answers for the judge's card.")
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="Of an OpenAI-compatible server, e.g. http://host/v1.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="That the server judges with.")] = None,
    key_env: Annotated[
        str, typer.Option(help="Environment variable that holds the server's key.")
    ] = "OPENAI_API_KEY",
    price: Annotated[
        str | None, typer.Option(help="IN,OUT of a million tokens, for the estimate.")
    ] = None,
    most_cost: Annotated[float | None, typer.Option(help="Cap, by those prices.")] = None,
    most_tokens: Annotated[int, typer.Option(help="Cap, in and out together.")] = 2_000_000,
    parallel: Annotated[int, typer.Option(help="Questions at a time.")] = 8,
    out: OutOption = None,
    pack: PackOption = None,
) -> None:
    """Verdicts on pairs of a run's replies: each dimension, both orders; stored ones are kept."""
    loaded = load_pack(pack)
    _needs()
    from mpd_core.evaluation.card import known_pairs
    from mpd_core.evaluation.judges import SERVER, judge_named
    from mpd_core.evaluation.judging import VERDICTS, drawn, judge_pairs, pairs_of
    from mpd_core.evaluation.record import load_run, replies_of

    folder = _folder(loaded, out)
    found = load_run(folder)
    met = _among(found.methods, listed(methods))
    server = None
    if judge == SERVER:
        from mpd_core.evaluation.judges.server import ServerOptions
        from mpd_core.evaluation.judges.spending import Limits

        limits = Limits(most_tokens, most_cost, _prices(price))
        server = ServerOptions(url or "", model or "", key_env, limits, parallel)
    asked = judge_named(judge, loaded, server, _tell)
    usual = None if server is None else CARD_PAIRS
    met_pairs = list(pairs_of(loaded.space, replies_of(folder, found), met))
    known_ones = known_pairs(loaded.space, _held_out(loaded))
    chosen = [*drawn(met_pairs, pairs), *drawn(known_ones, usual if known is None else known)]
    judge_pairs(asked, chosen, folder)
    print(f"Written: {folder / VERDICTS.format(judge=asked.name)}")


@evaluate.command()
def report(
    out: OutOption = None,
    pack: PackOption = None,
    json: JsonOption = False,
) -> None:
    """Tables of a run, from its stored replies and verdicts; written beside it, and printed."""
    loaded = load_pack(pack)
    _needs()
    from mpd_core.evaluation.markdown import markdown
    from mpd_core.evaluation.report import report as reported

    figures = reported(loaded, _folder(loaded, out), _held_out(loaded))
    print(json_.dumps(figures, indent=1) if json else markdown(figures))


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
    from mpd_core.evaluation.calibration import calibrate as fitted
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


def _generate(pack: Pack, jobs: Sequence[Job], folder: Path, **how: Any) -> None:
    """By the engine, then what PEFT ships; models load only where something waits for them."""
    from mpd_core.evaluation.jobs import WEIGHT_SPACE

    beside = [job for job in jobs if job.request.method in WEIGHT_SPACE]
    inside = [job for job in jobs if job.request.method not in WEIGHT_SPACE]
    if inside:
        from mpd_core.engine import Engine  # here: what is refused should not wait for torch
        from mpd_core.evaluation.runs import generate

        with closing(Engine.open(pack, progress=_tell, **how)) as engine:
            generate(engine, inside, folder)
    if beside:
        from mpd_core.evaluation.runs import store
        from mpd_core.evaluation.weight_space import WeightSpace

        store(beside, folder, WeightSpace(pack, **how).outcomes)


def _folder(pack: Pack, out: Path | None) -> Path:
    return out or Path("runs") / pack.spec.name / "evaluation"


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


def _held_out(pack: Pack) -> Sequence[Styled]:
    """Written answers that nothing was fitted on; a pack without a recipe has none."""
    from mpd_core.training.recipe import FILE

    return _styles(pack).split("test") if (pack.folder / FILE).is_file() else ()


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
