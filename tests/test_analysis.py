"""Traces together: their tables against counts by hand, and files that are none."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from mpd_core.analysis import Analysis, analyse, read_trace
from mpd_core.analysis.files import TraceError, trace_from_json
from mpd_core.analysis.measure import switches
from mpd_core.analysis.words import kinds
from mpd_core.cli import main
from mpd_core.engine import Engine
from mpd_core.request import Branch
from mpd_core.trace import Candidate, StepRecord, Timing, Trace
from mpd_core.ui.analyse import analyse_traces
from mpd_core.ui.standalone import inert
from tests.browser.scripted import HOSTILE
from tests.test_engine import ask

SAID = (
    ("The", 0.5),
    (" cell", 0.25),
    ("s", 0.25),
    (",", 1.0),
    (" which", 0.75),
    (" glow", 0.5),
    ("", 0.0),
)


def a_step(index: int, text: str, a: float, divergence: float = 0.1) -> StepRecord:
    top = (
        Candidate(1, " a", 0.5, {"A": -0.1, "B": -3.0}),
        Candidate(2, " b", 0.4, {"A": -2.0, "B": -0.2}),
    )
    return StepRecord(
        index,
        1,
        text,
        {"A": a, "B": 1 - a},
        0.5,
        {"A": -0.1, "B": -3.0},
        1.0,
        0.05,
        divergence,
        top,
    )


def a_trace(said: tuple[tuple[str, float], ...] = SAID, preference: str = "AB") -> Trace:
    steps = tuple(a_step(i, text, a, 0.1 * (i + 1)) for i, (text, a) in enumerate(said))
    return Trace(
        pack="p",
        hashes={},
        trained=True,
        prompt="Hi",
        messages=({"role": "user", "content": "Hi"},),
        preference=preference,
        poles=("A", "B"),
        method="mpd",
        space="probability",
        settings={},
        seed=0,
        device="cpu",
        precision="fp16",
        text="".join(s.text for s in steps),
        finish_reason="stop",
        prompt_tokens=3,
        timing=Timing(0.1, 1.0, 7.0),
        steps=steps,
    )


def test_kinds_of_tokens_follow_the_words_that_they_are_parts_of() -> None:
    assert kinds([text for text, _ in SAID]) == [
        "function word",
        "content word",
        "content word",
        "punctuation",
        "function word",
        "content word",
        "other",
    ]
    assert kinds([" do", "n", "'t", " photo", "synthesis", "!\n", "\n", " 42", " 光", "合"]) == [
        *["function word"] * 3,
        *["content word"] * 2,
        "punctuation",
        "other",
        *["content word"] * 3,
    ]
    assert kinds(["isn’t", ". The"]) == ["function word", "function word"]


def test_tables_are_what_counting_by_hand_gives() -> None:
    found = analyse({"one": a_trace(), "two": a_trace(SAID[:2], "BA")})
    assert (found.traces, found.tokens, found.experts) == (2, 9, ("A", "B"))
    assert [(row.name, row.tokens) for row in found.positions[:3]] == [("1", 2), ("2", 2), ("3", 1)]
    assert found.positions[0].weights == {"A": 0.5, "B": 0.5}
    by_kind = {row.name: row for row in found.kinds}
    assert by_kind["function word"].weights["A"] == pytest.approx((0.5 + 0.75 + 0.5) / 3)
    assert by_kind["content word"].tokens == 4
    assert by_kind["punctuation"].weights == {"A": 1.0, "B": 0.0}
    first, second = found.preferences
    assert (first.name, first.traces, first.tokens) == ("AB", 1, 7)
    assert first.divergence == pytest.approx(0.4)
    assert second.switches == 1
    # Leaders: none, B, B, A, A, none, B.
    assert switches(a_trace().steps) == first.switches == 4
    assert first.switches_per_100 == pytest.approx(400 / 7)
    assert found.switches_per_100 == pytest.approx(500 / 9)
    assert found.apart[0].index == 6
    assert found.apart[0].before == "The cells, which glow"
    assert found.apart[0].favourites == {"A": " a", "B": " b"}


def test_experts_that_only_some_replies_have_are_averaged_over_these() -> None:
    other = replace(
        a_trace(),
        steps=tuple(
            replace(s, weights={"A": 1.0, "C": 0.0}, logprobs={"A": -1.0, "C": -1.0})
            for s in a_trace().steps
        ),
    )
    found = analyse({"one": a_trace(), "two": other})
    assert found.positions[0].weights == {"A": 0.75, "B": 0.5, "C": 0.0}
    assert found.positions[0].shares == {"A": 2, "B": 1, "C": 1}


def test_long_replies_share_positions() -> None:
    found = analyse({"long": a_trace(tuple((" x", 0.5) for _ in range(100)))})
    assert [row.name for row in found.positions][:2] == ["1–4", "5–8"]
    assert sum(row.tokens for row in found.positions) == 100


def test_a_branch_stands_at_its_place_in_the_reply(tiny_engine: Engine) -> None:
    whole = tiny_engine.generate(ask())
    prefix = tuple(step.token_id for step in whole.steps[:5])
    part = tiny_engine.generate(replace(ask(), branch=Branch(prefix)))
    found = analyse({"part": trace_from_json(part.to_json(), "part")})
    assert found.positions[0].name == "6"


def test_csv_has_every_number_and_no_formula() -> None:
    trace = replace(a_trace(), preference="=1+1")
    rows = list(csv.DictReader(io.StringIO(analyse({"x": trace}).to_csv())))
    weights = {
        (r["group"], json.loads(r["name_json"]), json.loads(r["expert_json"])): float(r["value"])
        for r in rows
        if r["quantity"] == "weight"
    }
    assert weights["kind", "punctuation", "A"] == 1.0
    assert weights["position", "2", "A"] == 0.25
    assert ("preference", "=1+1", "B") in weights
    assert all(cell[:1] not in "=+@" for row in rows for cell in row.values() if cell)
    assert [r["value"] for r in rows if r["quantity"] == "switches_per_100"] == [str(400 / 7)]


def write(folder: Path, name: str, trace: Trace | str) -> Path:
    file = folder / name
    file.write_text(trace if isinstance(trace, str) else trace.to_json(), encoding="utf-8")
    return file


def test_the_command_prints_tables_and_writes_csv_and_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = a_trace(((HOSTILE, 0.5), ("\x1b[2J</script>", 1.0)))
    files = [write(tmp_path, "a.json", a_trace()), write(tmp_path, "b.json", hostile)]
    out = [tmp_path / "all.csv", tmp_path / "all.html"]
    assert main(["trace", *map(str, files), "--csv", str(out[0]), "--html", str(out[1])]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("2 replies, 9 tokens, 55.6 switches")
    assert "\x1b" not in printed
    assert "kind" in out[0].read_text("utf-8")
    page = out[1].read_text("utf-8")
    assert HOSTILE not in page
    assert page.count("</script>") == page.count("<script")
    assert main(["trace", str(files[0]), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == 7


def broken(**changes: Any) -> str:
    return json.dumps({**a_trace().to_dict(), **changes})


def broken_step(**changes: Any) -> str:
    data = json.loads(a_trace().to_json())
    data["steps"][1] |= changes
    return json.dumps(data)


def unlikely(**changes: Any) -> dict[str, Any]:
    return {"token_id": 1, "text": "x", "probability": 0.5, "logprobs": {"A": -1}, **changes}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no JSON, or was cut short"),
        (a_trace().to_json()[:-30], "is no JSON, or was cut short"),
        ("[" * 100_000, "is no JSON"),
        ("[1]", "is no trace: it has no schema_version"),
        (broken(schema_version=1), "has schema 1; this version reads 2"),
        (broken(schema_version=[3]), r"has schema \[3\]"),
        (broken(steps=None), "has no steps"),
        (broken(steps=[1]), "a step that is no object"),
        (broken(steps=[{}] * 5000), "has 5000 steps; at most 4096"),
        (broken(text="other"), "do not join"),
        (broken(prompt=7), "prompt: Input should be"),
        (broken(seed="x"), "seed: Input should be"),
        (broken(finish_reason="bored"), "finish_reason: "),
        (broken(timing={}), "timing.first_token_s: Field required"),
        (broken(surprise=1), "does not know: .surprise."),
        (broken_step(weights={"A": 1.0}), "step 2 has other experts"),
        (broken_step(weights={"A": 0.9, "B": 0.9}), "step 2 has weights that are no shares"),
        (broken_step(weights={"A": -1.0, "B": 2.0}), "step 2 has weights that are no shares"),
        (broken_step(weights={"A": None, "B": 1}), r"steps\.1\.weights\.A: "),
        (broken_step(probability=2), "no proper probability"),
        (broken_step(logprobs={"A": 3, "B": -1}), "log-probability above 0"),
        (broken_step(logprobs={"A": -3}), "other experts"),
        (broken_step(entropy=-4), "an entropy or divergence that is none"),
        (broken_step(divergence="x"), r"steps\.1\.divergence: "),
        (broken_step(surprise=1), "does not know"),
        (broken_step(top_k=[{}]), r"steps\.1\.top_k\.0\."),
        (broken_step(top_k=7), r"steps\.1\.top_k: "),
        (broken_step(top_k=[unlikely(probability=7)]), "no proper probability"),
        (broken_step(top_k=[unlikely(logprobs={"A": 2})]), "log-probability above 0"),
        (broken_step(missing={"A": -1}), "no proper probability"),
        (broken_step(index=0), "step 2 has the index 0, out of turn"),
        (broken_step(index=10**400), "out of turn"),
        (a_trace().to_json().replace("0.05", "NaN"), "NaN is no JSON"),
    ],
    ids=range(33),
)
def test_files_that_are_no_traces_are_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    file = write(tmp_path, "bad.json", text)
    with pytest.raises(TraceError, match=message) as caught:
        read_trace(file)
    assert str(caught.value).startswith(str(file))
    assert len(str(caught.value)) < 500
    assert main(["trace", str(file)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_files_that_cannot_be_read_are_one_sentence(tmp_path: Path) -> None:
    for name, content, message in (
        ("latin.json", b"\xff\xfe\xff", "no UTF-8"),
        ("none.json", None, "cannot be read"),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(TraceError, match=message):
            read_trace(tmp_path / name)
    with pytest.raises(TraceError, match="cannot be read"):
        read_trace(tmp_path)


def test_a_huge_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpd_core.analysis.files.MAX_FILE_BYTES", 100)
    with pytest.raises(TraceError, match="at most 0 MB are read"):
        read_trace(write(tmp_path, "a.json", a_trace()))
    with pytest.raises(TraceError, match="at most 0 MB are read"):
        read_trace(Path("/dev/zero"))  # of no size, and without an end


def test_a_trace_comes_back_as_it_was_with_null_for_impossible(tiny_engine: Engine) -> None:
    trace = tiny_engine.generate(ask())
    assert trace_from_json(trace.to_json(), "x") == trace
    data = json.loads(trace.to_json())
    data["steps"][0]["top_k"][0]["logprobs"]["up0"] = None
    read = trace_from_json(json.dumps(data), "x")
    assert read.steps[0].top_k[0].logprobs["up0"] == -math.inf
    assert json.loads(read.to_json()) == data


def test_the_page_may_send_anything() -> None:
    text = a_trace().to_json()
    same = analyse_traces([["a", text], ["a", text]])
    assert same["found"]["traces"] == 2
    for nonsense in (None, 7, [], [["a"]], [["a", 7]], {"a": text}, [["a", text]] * 201):
        assert "Give 1 to 200 traces" in analyse_traces(nonsense)["refused"]
    assert analyse_traces([["<b>", "x"]])["refused"].startswith("<b>: is no JSON")


def test_nothing_and_empty_replies_can_be_looked_at() -> None:
    empty = replace(a_trace(()), text="")
    found = analyse({"empty": empty})
    assert (found.tokens, found.switches_per_100) == (0, 0.0)
    assert isinstance(found, Analysis)
    assert "preference" in found.to_csv()


def test_the_documentation_names_every_field() -> None:
    text = (Path(__file__).parent.parent / "mpd_core" / "analysis" / "TRACE.md").read_text("utf-8")
    for kind in (Trace, StepRecord, Candidate, Timing, Branch):
        for one in fields(kind):
            assert f"`{one.name}`" in text, one.name


def test_json_in_a_script_element_stays_data() -> None:
    assert json.loads(inert({"x": HOSTILE + "\u2028"})) == {"x": HOSTILE + "\u2028"}
    assert not set("<>&\u2028") & set(inert({"x": HOSTILE + "\u2028"}))
