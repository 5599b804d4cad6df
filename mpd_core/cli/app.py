"""The command line: ``python -m mpd_core`` generate, serve, status, train, evaluate and others."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from json import dumps
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mpd_core import console
from mpd_core.bench.values import MEASURES, BenchOptions
from mpd_core.cli.trace import trace
from mpd_core.cli.train import train
from mpd_core.console import tell
from mpd_core.engine.plan import METHOD_HELP, plan_request
from mpd_core.errors import EngineError, MPDError, RequestError
from mpd_core.evaluation.command import evaluate
from mpd_core.options import DeviceOption, PackOption, QuantizeOption, listed, with_numbers
from mpd_core.packs import Pack, Precision, Quantize, load_pack
from mpd_core.request import GenerationRequest, Sampling, Space

if TYPE_CHECKING:
    from mpd_core.engine import Engine

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="MPD Studio: experts weighed anew at every token.",
)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; its exit code. What a user did wrong is one line on stderr and code 2.

    What a terminal's encoding lacks is escaped, and a reader that has gone ends the command.
    """
    console.escape_what_is_lacking()
    try:
        code = int(typer.main.get_command(app).main(arguments, standalone_mode=False) or 0)
        print(end="", flush=True)
        return code
    except (BrokenPipeError, SystemExit):  # typer leaves by the latter where a pipe is closed
        return console.hang_up()
    except MPDError as error:
        message = str(error)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if not hasattr(error, "format_message"):  # click's usage errors, wherever they live
            raise
        message = f"{error.format_message()} See --help."
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return 2


@app.command()
@with_numbers(GenerationRequest, Sampling, pack_decides=True)
def generate(
    prompt: Annotated[str, typer.Argument(help="The instruction; - reads it from stdin.")],
    preference: Annotated[
        str | None, typer.Option(help="One letter a dimension, e.g. AAB; - leaves one out.")
    ] = None,
    method: Annotated[str, typer.Option(help=METHOD_HELP)] = "mpd",
    space: Annotated[Space | None, typer.Option(help="Where experts are merged.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one trace instead.")] = False,
    pack: PackOption = None,
    quantize: QuantizeOption = None,
    device: DeviceOption = None,
    **numbers: Any,
) -> None:
    """Answer one prompt on stdout, streamed. What is not given is the pack's own."""
    loaded = load_pack(pack)
    chosen = loaded.space.parse(preference or "A" * len(loaded.space.dimensions))
    request = loaded.request(console.typed(prompt), chosen.code, method, space=space, **numbers)
    # What can be refused without a model should not wait for one to load.
    plan_request(loaded, chosen, method, request.space)
    with _engine(loaded, quantize, device) as engine, engine.submit(request) as stream:
        for step in stream:
            if not json:
                print(step.text, end="", flush=True)
        print(console.writable(stream.trace()) if json else "")


@app.command()
def serve(
    pack: PackOption = None,
    quantize: QuantizeOption = None,
    device: DeviceOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; default 7860.")] = None,
) -> None:
    """Open the app in a browser-friendly server."""
    from mpd_core.ui.opening import Opening
    from mpd_core.ui.server import serve as serve_page

    console.stop_when_terminated()
    loaded, chosen = load_pack(pack), quantize
    opening = Opening(
        loaded, lambda progress: _engine(loaded, chosen, device, progress, warm=True), tell
    )
    with contextlib.closing(opening), contextlib.suppress(KeyboardInterrupt):
        serve_page(opening, host=host, port=port)


@app.command()
def fetch(pack: PackOption = None) -> None:
    """Obtain a pack's models ahead of time."""
    from mpd_core.sources.obtain import obtain_all

    for folder in obtain_all(load_pack(pack), progress=tell):
        tell(f"Ready: {folder}")


@app.command()
def status(
    pack: PackOption = None, quantize: QuantizeOption = None, device: DeviceOption = None
) -> None:
    """Load a pack and print, as JSON, how its models are stored and computed, and their memory."""
    with _engine(load_pack(pack), quantize, device) as engine:
        print(dumps(engine.status(), indent=1))


app.command()(trace)
app.add_typer(train, name="train")
app.add_typer(evaluate, name="evaluate")


@app.command()
@with_numbers(BenchOptions)
def bench(
    only: Annotated[
        str | None, typer.Option(help=f"Measures, with commas: {', '.join(MEASURES)}.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Tiny sizes: does it all run?")] = False,
    pack: PackOption = None,
    precision: Annotated[Precision | None, typer.Option(help="Override the pack's.")] = None,
    device: DeviceOption = None,
    **sizes: int,
) -> None:
    """Time the engine beside its peers: a table, then one line of JSON."""
    chosen = MEASURES if only is None else listed(only)
    options = BenchOptions(chosen, **sizes, pack=pack, precision=precision, device=device)
    from mpd_core.bench.run import run

    run(options.quick() if quick else options)


@app.command()
def soak(
    minutes: Annotated[float, typer.Option(help="How long visitors come.")] = 10.0,
    visitors: Annotated[int, typer.Option(help="At once.")] = 32,
    pack: PackOption = None,
    quantize: QuantizeOption = None,
    device: DeviceOption = None,
) -> None:
    """Load test: clients finish, stop or disconnect; nothing may hang, leak or change its text."""
    if not 0 < minutes < float("inf") or visitors < 1:
        raise RequestError(f"{minutes} minutes, {visitors} visitors: give some of both.")
    from mpd_core.cli.soak import soak as run_soak

    with _engine(load_pack(pack), quantize, device) as engine:
        result = run_soak(engine, seconds=60 * minutes, visitors=visitors)
    print(dumps(result.to_dict()))
    if result.failures:
        raise EngineError(f"{len(result.failures)} failures, first: {result.failures[0]}")


def _engine(
    pack: Pack,
    quantize: Quantize | None,
    device: str | None,
    progress: Callable[[str], None] = tell,
    *,
    warm: bool = False,
) -> Engine:
    from mpd_core.engine import Engine  # here: --help and bad input should not wait for torch

    return Engine.open(
        pack,
        quantize=quantize,
        device=device,
        warm=warm,
        compile_apart=True,
        progress=progress,
    )
