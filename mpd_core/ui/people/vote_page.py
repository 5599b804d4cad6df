"""The Vote page: two anonymous replies, and for each dimension which shows it better."""

from __future__ import annotations

from typing import Any

import gradio as gr

from mpd_core.ui import assets
from mpd_core.ui.pages import PRIVATE, header, navigation
from mpd_core.ui.people.ballots import Place
from mpd_core.ui.people.voting import CHOICES, Shown, State, Voting

_RATER = """async (...values) => {
  while (!window.mpdVote) await new Promise(done => setTimeout(done, 20));
  return [window.mpdVote.rater(), ...values.slice(1)];
}"""
LEAD = (
    "## Which reply is closer to what was asked for?\n"
    "Read the instruction and both replies. For each row choose the output that shows it better, "
    "or Tie. Keys: 1, 2 and 0 (tie) answer the next open row, Enter goes on. Nothing about you is "
    "kept but a random number in a cookie, so that no pair counts twice."
)


def build(page: Any, place: Place) -> None:
    """Add the page to an app."""
    voting = Voting(place)
    dimensions = place.pack.space.dimensions
    with page.route("Vote", "/vote"):
        navigation()
        header(place.pack.spec.title)
        gr.HTML("", js_on_load=assets.script("text.js", "vote.js"), elem_id="vote-keys")
        with gr.Column(elem_classes="mpd-people"):
            gr.Markdown(LEAD)
            gr.Markdown(place.warning, visible=bool(place.warning), elem_id="vote-warning")
            rater, state = gr.Textbox(visible=False), gr.State({})
            note = gr.Textbox(label="Note", visible=False, interactive=False, elem_id="vote-note")
            with gr.Column(visible=False, elem_id="vote-ballot") as ballot:
                instruction = _text("Instruction", "vote-instruction", 1)
                with gr.Row(elem_id="vote-outputs"):
                    outputs = [_text(f"Output {n}", f"vote-output-{n}", 8) for n in (1, 2)]
                with gr.Column(elem_id="vote-rows"):
                    rows = [
                        gr.Radio(
                            list(CHOICES), label=d.name, elem_id=f"vote-row-{k}",
                            elem_classes="dimension",
                        )
                        for k, d in enumerate(dimensions)
                    ]  # fmt: skip
                go = gr.Button("Next", variant="primary", elem_id="vote-next")
            progress = gr.Textbox(label="So far", interactive=False, elem_id="vote-progress")
    shown = [state, note, ballot, instruction, *outputs, *rows, progress]

    def begin(cookie: str) -> list[Any]:
        return _updates(place, voting.next(cookie))

    def cast(cookie: str, looked_at: State, *choices: str | None) -> list[Any]:
        found = voting.cast(cookie, looked_at or {}, choices)
        if isinstance(found, str):
            told = gr.update(value=found, visible=True)
            return [gr.skip(), told, *(gr.skip() for _ in shown[2:])]
        return _updates(place, found)

    with page:
        page.load(begin, rater, shown, js=_RATER, **PRIVATE)
        go.click(cast, [rater, state, *rows], shown, js=_RATER, trigger_mode="once", **PRIVATE)


def _text(label: str, name: str, lines: int) -> gr.Textbox:
    """Plain text, whatever it holds: never markdown or HTML."""
    return gr.Textbox(
        label=label, lines=lines, max_lines=24, interactive=False, elem_id=name, min_width=280
    )


def _updates(place: Place, shown: Shown) -> list[Any]:
    pair = shown.pair
    rows = [gr.update(value=None, visible=False) for _ in place.pack.space.dimensions]
    if pair:
        chosen = place.pack.space.parse(pair.code)
        rows = [
            gr.update(value=None, visible=False)
            if pole is None
            else gr.update(
                value=None, visible=True, label=f"{pole.name}: {pole.instruction.strip()}"
            )
            for pole in chosen.choices
        ]
    done = f"You have judged {shown.done} pair{'s' if shown.done != 1 else ''}."
    return [
        shown.state,
        gr.update(value=shown.note, visible=bool(shown.note)),
        gr.update(visible=pair is not None),
        pair.whole.prompt if pair else "",
        *shown.texts,
        *rows,
        done,
    ]
