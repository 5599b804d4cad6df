"""The Results page: what all votes on this pack's replies say."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from mpd_core.errors import MPDError
from mpd_core.evaluation.votes import agreement, meetings_of
from mpd_core.rendering import NOTHING, Column, listed
from mpd_core.ui import assets
from mpd_core.ui.pages import PRIVATE, header, navigation
from mpd_core.ui.people.ballots import Place

COLUMNS: Mapping[str, Column] = {
    **{name: name for name in ("first", "second", "dimension")},
    "votes": lambda met: met["wins"] + met["ties"] + met["losses"],
    "wins / ties / losses": lambda met: f"{met['wins']} / {met['ties']} / {met['losses']}",
    "win rate": "paper_rate",
    "95% interval": lambda met: _reach(met["paper_interval"]),
    "(W+T/2)/N": "half_rate",
    "binomial p": lambda met: f"{met['p']:.3g}",
}
HEAD = list(COLUMNS)
LEAD = "## What people chose"
NOBODY = "Nobody has voted yet: the page Vote asks for it."
MEANINGS = (
    "Win rate of the first method: for all dimensions the sign of their sum, ties dropped, as in "
    "the paper; its interval draws whole prompts; p: exact two-sided binomial test on votes that "
    "are no tie. Agreement: Krippendorff's alpha on pairs that several people have judged, with "
    "loss, tie and win as -1, 0 and 1."
)


def build(page: Any, place: Place) -> None:
    """Add the page to an app."""
    folder = Path(tempfile.mkdtemp(prefix="mpd-votes-"))  # of a file that Gradio copies to its own
    with page.route("Results", "/results"):
        navigation()
        header(place.pack.spec.title)
        with gr.Column(elem_classes="mpd-people"):
            gr.Markdown(LEAD)
            gr.Markdown(place.warning, visible=bool(place.warning), elem_id="results-warning")
            summary = gr.Textbox(label="Votes", interactive=False, elem_id="results-summary")
            table = gr.HTML(
                value={"heads": HEAD, "rows": []},
                html_template='<div class="mpd-results"></div>',
                js_on_load=assets.script("text.js", "analyse.js", "results.js"),
                apply_default_css=False,
                elem_id="results-table",
            )
            with gr.Row(elem_id="results-buttons"):
                again = gr.Button("Refresh", elem_id="results-refresh", min_width=140)
                export = gr.Button("Votes as CSV", elem_id="results-export", min_width=140)
            file = gr.File(label="CSV", visible=False, interactive=False, elem_id="results-file")
            gr.Markdown(MEANINGS, elem_id="results-meanings")

    def show() -> list[Any]:
        said, rows = _shown(place)
        return [said, {"heads": HEAD, "rows": rows}]

    def write() -> Any:
        try:
            content = place.votes().csv()
        except MPDError as error:
            raise gr.Error(str(error), print_exception=False) from error
        with tempfile.NamedTemporaryFile("wb", dir=folder, delete=False) as part:
            part.write(content.encode("utf-8"))
        return gr.update(value=str(Path(part.name).replace(folder / "votes.csv")), visible=True)

    with page:
        page.load(show, None, [summary, table], **PRIVATE)
        again.click(show, None, [summary, table], **PRIVATE)
        export.click(write, None, file, **PRIVATE)


def _shown(place: Place) -> tuple[str, Sequence[Sequence[str]]]:
    """What is said above the table, and the table's rows."""
    try:
        every = place.votes().all()
    except MPDError as error:
        return str(error), []
    if not every:
        return NOBODY, []
    try:
        content = place.ballots().content
    except MPDError:
        content = every[-1].content if every else ""
    votes = [vote for vote in every if vote.content == content]
    others = len(every) - len(votes)
    raters = len({vote.rater for vote in votes})
    said = f"{_counted(len(votes), 'vote')} by {_counted(raters, 'rater')}."
    if others:
        said += f" {others} more, on other weights or settings, are only in the CSV."
    found = [f"{name} {value:.2f}" for name, value in agreement(votes).items() if value is not None]
    said += f" Agreement: {', '.join(found)}." if found else " No pair has two raters yet."
    return said, listed(meetings_of(votes), COLUMNS)[1]


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"


def _reach(ends: tuple[float, float] | None) -> str:
    return f"{ends[0]:.2f} to {ends[1]:.2f}" if ends else NOTHING
