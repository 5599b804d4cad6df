"""The commands ``python -m mpd_core evaluate ...``; light, so that ``--help`` does not wait."""

from __future__ import annotations

import typer

from mpd_core.evaluation.command_report import (
    calibrate,
    efficiency,
    full,
    readme,
    report,
    validate,
)
from mpd_core.evaluation.command_run import judge, run, sheets

evaluate = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Replies by every method, judged; install what it needs with make train.",
)
for _command in (run, judge, sheets, report, full, readme, efficiency, validate, calibrate):
    evaluate.command()(_command)
