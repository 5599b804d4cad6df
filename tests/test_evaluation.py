"""Evaluation runs from end to end: generated, killed, resumed, judged, reported."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from mpd_core.cli import main
from mpd_core.engine import Engine
from mpd_core.engine.plan import ExpertPlan, plan_request
from mpd_core.errors import MPDError, RequestError
from mpd_core.evaluation import figures, judging
from mpd_core.evaluation.figures import kinds, positions, weights_by
from mpd_core.evaluation.generators import Generators
from mpd_core.evaluation.jobs import Job, content_of, jobs_of, key_of, methods_of
from mpd_core.evaluation.judging import Answer, Judge, Question
from mpd_core.evaluation.measures import MeasuresJudge, TextJudge
from mpd_core.evaluation.prompts import Prompt, prompts_of
from mpd_core.evaluation.record import Lines, RunRecord, load_run, meetings, read_rows, replies_of
from mpd_core.evaluation.report import html, report
from mpd_core.evaluation.verdicts import Judged, judged
from mpd_core.evaluation.written import card, known_pairs
from mpd_core.method.preferences import PreferenceSpace
from mpd_core.packs import Pack, load_pack
from mpd_core.request import Sampling
from mpd_core.training.data import Styled, load_styles
from mpd_core.training.recipe import load_recipe
from tests.fresh_python import ROOT
from tests.training_fixtures import write_training_pack

MEASURES = 'up0 = "-grade"\ndown0 = "grade"\nup1 = "words"\ndown1 = "-words"'
GREEDY = Sampling(max_new_tokens=6)


@pytest.fixture(scope="module")
def pack(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Pack:
    """Two dimensions, random experts, measures for every pole."""
    folder = tmp_path_factory.mktemp("pack")
    write_training_pack(folder, tiny_base, adapters=True)
    recipe = folder / "train.toml"
    recipe.write_text(recipe.read_text().replace('up0 = "-grade"', MEASURES))
    return load_pack(folder)


@pytest.fixture(scope="module")
def engine(pack: Pack) -> Iterator[Engine]:
    found = Engine.open(pack)
    yield found
    found.close()


def evaluate(*arguments: str) -> int:
    return main(["evaluate", *arguments])


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return list(read_rows(folder / "replies.jsonl"))


def jobs(pack: Pack, texts: tuple[str, ...] = ("Why?", "How?")) -> list[Job]:
    prompts = [Prompt(str(number), text) for number, text in enumerate(texts)]
    codes = [preference.code for preference in pack.space]
    return jobs_of(pack, prompts, methods_of(pack), codes, GREEDY)


def test_a_run_holds_every_method_preference_and_prompt(
    pack: Pack, engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What does not depend on the preference is made once; texts are those of single requests."""
    options = ["--pack", str(pack.folder), "--out", str(tmp_path), "--max-new-tokens", "6"]
    assert evaluate("run", *options, "--prompts", "test", "--limit", "2") == 0
    rows = rows_of(tmp_path)
    named = ("mpd", "uniform", "soup", "prompting", "uniform@logit", "uniform@strength")
    singles = ("vanilla", *(f"expert:{pole.name}" for pole in pack.space.poles))
    counts = {name: sum(row["method"] == name for row in rows) for name in (*named, *singles)}
    assert counts == dict.fromkeys(named, 2 * 4) | dict.fromkeys(singles, 2)
    assert len(rows) == sum(counts.values())
    wanted = {job.key: job for job in jobs(pack, tuple(row["prompt"] for row in rows[:1]))}
    checked = [row for row in rows if row["key"] in wanted]
    assert len(checked) == len(wanted)
    for row in checked:
        assert row["text"] == engine.generate(wanted[row["key"]].request).text
    assert "58 replies, 58 to be generated" in capsys.readouterr().err
    before = (tmp_path / "replies.jsonl").read_bytes()
    assert evaluate("run", *options, "--prompts", "test", "--limit", "2") == 0
    assert "58 replies, 0 to be generated" in capsys.readouterr().err
    assert (tmp_path / "replies.jsonl").read_bytes() == before


def test_the_spaces_of_a_method_are_generated_apart(pack: Pack) -> None:
    found = {job.method: job.request for job in jobs(pack)}
    assert found["uniform"].space == "probability"
    assert found["uniform@strength"].strength == pack.spec.decode.strength
    assert found["uniform@logit"].space == "logit"
    assert found["uniform@logit"].method == "uniform"
    for wrong, said in (("uniform@loggit", "merge in"), ("unifrom", "Unknown method 'unifrom'")):
        with pytest.raises(RequestError, match=said):
            methods_of(pack, f"mpd,{wrong}")


def test_methods_are_split_at_commas_but_not_weights(pack: Pack) -> None:
    chosen = "mpd, static:0.5,0.5,uniform@logit,static:1,0 ,mpd"
    names = ["mpd", "static:0.5,0.5", "uniform@logit", "static:1,0"]
    assert methods_of(pack, chosen) == names


def test_a_preference_that_a_method_cannot_serve_is_refused_before_anything_runs(
    pack: Pack,
) -> None:
    with pytest.raises(RequestError, match="needs at least one dimension"):
        jobs_of(pack, [Prompt("1", "Why?")], ["vanilla", "mpd"], ["AA", "--"], GREEDY)


def test_a_killed_run_goes_on_where_it_was(pack: Pack, engine: Engine, tmp_path: Path) -> None:
    """Killed hard while it writes; the rest is generated, and all is as it would be alone."""
    prompts, out = tmp_path / "prompts.txt", tmp_path / "out"
    prompts.write_text("\n".join(f"Tell me about number {n}." for n in range(12)))
    options = ["run", "--pack", str(pack.folder), "--prompts", str(prompts), "--out", str(out)]
    options += ["--methods", "mpd", "--max-new-tokens", "24"]
    command = [sys.executable, "-m", "mpd_core", "evaluate", *options]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    while len(rows_of(out)) < 3 and process.poll() is None:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    some = len(rows_of(out))
    assert 3 <= some < 48
    with (out / "replies.jsonl").open("a") as file:
        file.write('{"key": "half a li')
    assert evaluate(*options) == 0
    rows = rows_of(out)
    assert len(rows) == len({row["key"] for row in rows}) == 48
    wanted = jobs_of(
        pack, prompts_of(pack, str(prompts)), ["mpd"], ["AB"], Sampling(max_new_tokens=24)
    )
    texts = {row["key"]: row["text"] for row in rows}
    assert all(texts[job.key] == engine.generate(job.request).text for job in wanted)


def test_a_prompt_that_is_too_long_does_not_end_the_run(pack: Pack, tmp_path: Path) -> None:
    generators = Generators(pack, lambda _: None)
    with pytest.raises(MPDError, match=r"29 replies failed, first: mpd, prompt 1: .*tokens"):
        generators.run(jobs(pack, ("Why?", "word " * 3000)), tmp_path)
    generators.close()
    assert len(rows_of(tmp_path)) == 29


def test_a_key_changes_with_all_that_a_text_depends_on(pack: Pack, tmp_path: Path) -> None:
    """Prompt, preference, method, space and setting; the pack's weights and templates; not its
    title, nor what rewards its replies."""
    request = jobs(pack)[0].request
    content = content_of(pack)
    others = [
        replace(request, messages=(replace(request.messages[0], content="Why not?"),)),
        replace(request, preference="BB"),
        replace(request, method="uniform"),
        replace(request, space="logit"),
        replace(request, sampling=replace(request.sampling, repetition_penalty=1.1)),
        replace(request, sampling=replace(request.sampling, seed=1)),
    ]
    keys = {key_of(content, other) for other in (request, *others)}
    assert len(keys) == 1 + len(others)
    toml = (pack.folder / "pack.toml").read_text()
    changes = {
        'title = "Tiny"': 'title = "Other"',
        "Please go up 0.": "Go up, 0.",
        "context = 1024": "context = 512",
    }
    found = []
    for old, new in changes.items():
        assert old in toml
        folder = tmp_path / str(len(found))
        folder.symlink_to(pack.folder, target_is_directory=True)
        spec = load_pack(folder).spec.model_validate(_edited(toml, old, new))
        found.append(content_of(Pack(spec, pack.folder, "0" * 64)) == content)
    assert found == [True, False, False]
    assert content_of(pack, "int8") != content


def test_only_replies_that_a_pcm_weighs_depend_on_it(pack: Pack) -> None:
    """And only ``static`` on the pack's constant weights: all other replies outlive a new PCM."""

    def made(head: str, first: float) -> Pack:
        pcm = {"head": {"file": "head.safetensors", "sha256": head * 64}}
        static = {preference.code: (first, 1 - first) for preference in pack.space}
        spec = pack.spec.model_dump(mode="json") | {"pcm": pcm, "static": static}
        return Pack(pack.spec.model_validate(spec), pack.folder, "0" * 64)

    before = made("1", 0.5)
    keys = {job.key: job.method for job in jobs(before)}
    for other, affected in ((made("2", 0.5), None), (made("1", 0.4), {"static"})):
        kept = {job.key for job in jobs(other)}
        gone = {method for key, method in keys.items() if key not in kept}
        assert gone == (affected or {m for m in set(keys.values()) if _plan(before, m).pcm})
    assert {"mpd", "top-1", "mpd@logit", "uniform@logit", "static", "soup"} <= set(keys.values())


def _plan(pack: Pack, method: str) -> ExpertPlan:
    return plan_request(pack, pack.space.parse("AA"), method.partition("@")[0])


def _edited(toml: str, old: str, new: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return dict(tomllib.loads(toml.replace(old, new)))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.jsonl", '{"prompt": "Why?"}\n{"prompt": 3}\n', "p.jsonl:2: needs text under one of"),
        ("p.jsonl", '{"prompt": "Why?"}\n\n{oops\n', "p.jsonl:3: not JSON"),
        ("p.jsonl", "[1]\n", "p.jsonl:1: needs text"),
        ("p.jsonl", '{"id": 1, "prompt": "a"}\n{"id": 1, "prompt": "b"}', "have the same id"),
        ("p.jsonl", '{"prompt": "  "}', "p.jsonl:1: the prompt is empty"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": "\\ud83d?"}', "p.jsonl:2: half of a surrogate"),
        ("p.jsonl", '{"id": "\\udc00", "prompt": "a"}', "p.jsonl:1: half of a surrogate"),
        ("p.txt", "\n \n", "there is no prompt in it"),
        ("p.txt", "a" * 100_001, "p.txt:1: over 100,000 characters"),
        ("p.txt", b"\xff\xfe\x00", "not UTF-8"),
    ],
)
def test_prompts_that_cannot_be_read_are_refused_by_line(
    pack: Pack, tmp_path: Path, name: str, content: str | bytes, said: str
) -> None:
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RequestError, match=said):
        prompts_of(pack, str(file))


def test_prompts_are_read_from_files_and_splits(pack: Pack, tmp_path: Path) -> None:
    text, lines = tmp_path / "a.txt", tmp_path / "b.jsonl"
    text.write_text("\ufeffWhy?\n\n  How? \n", encoding="utf-8")
    lines.write_text('{"id": "x", "instruction": "Why?\\nHow?"}\n{"question": "<b>"}\n')
    assert prompts_of(pack, str(text)) == [Prompt("1", "Why?"), Prompt("3", "How?")]
    assert prompts_of(pack, str(lines)) == [Prompt("x", "Why?\nHow?"), Prompt("2", "<b>")]
    rows = load_styles(pack.path(load_recipe(pack).data.file)).split("test")
    assert [prompt.text for prompt in prompts_of(pack, "test", 2)] == [r.prompt for r in rows[:2]]
    with pytest.raises(RequestError, match="tset: no such file; give one, or train, valid, test"):
        prompts_of(pack, "tset")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--methods", "mpd,magic"], "Unknown method 'magic'"),
        (["--preferences", "AZ"], "'Z' is no pole"),
        (["--preferences", ","], "--preferences: give one code"),
        (["--limit", "0"], "--limit"),
        (["--quantize", "int3"], "'--quantize': Value error, 'int3' is not one of"),
        (["--max-new-tokens", "100000"], "max_new_tokens"),
        (["--prompts", "nowhere.jsonl"], "no such file"),
    ],
)
def test_what_cannot_run_is_refused_in_one_line(
    pack: Pack,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    said: str,
) -> None:
    assert evaluate("run", "--pack", str(pack.folder), "--out", str(tmp_path), *options) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run.json").exists()


def test_files_of_rows_keep_whole_lines_and_one_writer(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    with Lines(file).writing() as lines:
        lines.add({"key": "a", "text": "\u2028 🍂 | <b>"})
        lines.add({"key": "a", "text": "again"})
        with pytest.raises(MPDError, match="another process writes to it"):
            Lines(file).writing().__enter__()
    with file.open("ab") as raw:
        raw.write('{"key": "b", "text": "🍂'.encode()[:-2])
    assert [row["key"] for row in read_rows(file)] == ["a"]
    with Lines(file).writing() as lines:
        lines.add({"key": "b", "text": ""})
    assert [row["key"] for row in read_rows(file)] == ["a", "b"]
    file.write_text('{"key": "a"}\n[]\n{"key": "b"}\n')
    with pytest.raises(MPDError, match=r"rows.jsonl:2: not a row of a run"):
        Lines(file)


DEFAULT = load_pack(None)
DRY = "It moves from one place to another as the other side gives way, and so on, until it stops."


@pytest.fixture
def written_run(tmp_path: Path) -> Path:
    """A run on the default pack, its replies known: MPD's are written answers to the preference,
    those of equal weights show no style, soup's are empty."""
    rows, keys = [], []
    styles = load_styles(DEFAULT.path(load_recipe(DEFAULT).data.file)).split("test")
    codes = [preference.code for preference in DEFAULT.space]
    for row in styles:
        for code in (code for code in codes if code in row.answers):
            for method, text in (("mpd", row.answers[code]), ("uniform", DRY), ("soup", "")):
                keys.append(f"{row.id}-{code}-{method}")
                rows.append(
                    {"key": keys[-1], "id": row.id, "prompt": row.prompt, "code": code}
                    | {"method": method, "text": text, "finished": True, "tokens": 9}
                    | {"device": "cpu", "precision": "float32"}
                )
        rows.append({**rows[-1], "key": f"{row.id}-v", "code": "---", "method": "vanilla"})
        rows[-1]["text"] = DRY
        keys.append(rows[-1]["key"])
    (tmp_path / "replies.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    methods = ("uniform", "mpd", "soup", "vanilla")
    sampling = {"temperature": 0.0, "max_new_tokens": 9, "repetition_penalty": 1.0}
    sampling |= {"dry_multiplier": 0.0}
    run = RunRecord(
        "x", {}, "a|b\n# <i>c", len(styles), methods, tuple(codes), sampling, tuple(keys)
    )
    run.save(tmp_path)
    return tmp_path


def test_a_run_is_judged_and_reported(
    written_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Replies that show their preference win nearly always; equal texts tie; an empty one loses."""
    assert evaluate("judge", "--out", str(written_run)) == 0
    before = (written_run / "verdicts-measures.jsonl").read_bytes()
    assert evaluate("judge", "--out", str(written_run)) == 0
    assert (written_run / "verdicts-measures.jsonl").read_bytes() == before
    capsys.readouterr()
    assert evaluate("report", "--out", str(written_run), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((written_run / "report.json").read_text())
    meetings = {(r["first"], r["second"]): r for r in found["judges"]["measures"]["meetings"]}
    against = meetings["mpd", "uniform"]
    assert against["paper_rate"] > 0.95
    assert against["paper_interval"][0] > 0.9
    assert against["p_holm"] < 0.001
    assert "length_controlled" in against["by_dimension"]["tone"]
    assert "length_controlled" not in against["by_dimension"]["length"]
    same = meetings["uniform", "vanilla"]
    assert (same["wins"], same["losses"], same["paper_rate"], same["half_rate"]) == (
        0,
        0,
        None,
        0.5,
    )
    assert meetings["mpd", "soup"]["losses"] == 0
    assert found["judges"]["measures"]["flip_rate"] == 0
    strengths = found["judges"]["measures"]["strengths"]
    assert next(iter(strengths)) == "mpd"
    assert strengths["uniform"] == 1000
    assert strengths["vanilla"] < strengths["mpd"]
    cells = [c["measure"] for row in found["identification"]["mpd"].values() for c in row.values()]
    assert sum(cells) / len(cells) > 0.9
    assert found["identification"]["soup"]["AAA"]["tone"]["measure"] == 0.5
    kind = found["judges"]["measures"]["kind"]
    assert kind.count("not a neural model") == kind.count("names the pole right in 0.9") == 1
    assert found["identified"]["mpd"]["measure"]["whole"] > 0.7
    assert found["identified"]["soup"]["measure"]["whole"] == 0
    assert found["worst"]["mpd"]["AAA"][1] == min(
        cell["measure"] for cell in found["identification"]["mpd"]["AAA"].values()
    )
    assert found["quality"]["soup"]["empty"] == found["quality"]["soup"]["unanswered"] == 1
    assert found["quality"]["uniform"]["empty"] == 0


def test_verdicts_of_the_measures_never_leave_a_report_in_silence(written_run: Path) -> None:
    """Made where word vectors are installed, or are not, they count where it is the other way; of
    measures that have changed they are refused by name."""
    run, file = load_run(written_run), written_run / "verdicts-measures.jsonl"
    replace(run, keys=run.keys[:24]).save(written_run)  # one prompt is enough
    replies = replies_of(written_run, load_run(written_run))
    pairs = list(judging.pairs_of(DEFAULT.space, replies, ["mpd", "uniform"]))
    measured, tables = MeasuresJudge(TextJudge.of(DEFAULT)), []
    for version in dict.fromkeys(measured.versions):
        file.unlink(missing_ok=True)
        measured.version = version
        judging.judge_pairs(measured, pairs, written_run)
        found = report(DEFAULT, written_run, ())["judges"]["measures"]
        assert found.pop("version") == version
        tables.append(found)
    assert len(tables) == 2
    assert tables[0] == tables[1]
    assert tables[0]["meetings"][0]["wins"] > 0
    file.write_text(file.read_text().replace(f'"{version}"', '"of old"'))
    with pytest.raises(MPDError, match=r"measures.jsonl: .* changed since: evaluate judge"):
        report(DEFAULT, written_run, ())


def test_the_markdown_of_a_report_has_whole_tables(written_run: Path) -> None:
    """Every row has as many cells as its head, whatever names stand in it."""
    assert evaluate("judge", "--out", str(written_run)) == 0
    assert evaluate("report", "--out", str(written_run)) == 0
    text = (written_run / "report.md").read_text()
    for words in ("Which poles", "How well the measures read", "Who wins", "How replies are"):
        assert f"\n## {words}" in text
    assert "not a neural model" in text
    blocks = [block.split("\n") for block in text.split("\n\n") if block.startswith("|")]
    assert len(blocks) >= 6
    for block in blocks:
        assert len({line.replace("\\|", "").count("|") for line in block if line}) == 1
    assert "\n# c" not in text


def test_the_page_of_a_report_is_whole_and_safe(written_run: Path) -> None:
    """Well-formed, without a script or anything to load; names from files stay text."""
    assert evaluate("judge", "--out", str(written_run)) == 0
    assert evaluate("report", "--out", str(written_run)) == 0
    page = (written_run / "report.html").read_text()
    seen = Tags()
    seen.feed(page)
    assert seen.open == []
    assert not {"script", "link", "img", "i", "iframe"} & seen.kinds
    assert "http" not in page
    assert "&lt;i&gt;c" in page
    assert page.count('class="rate"') == 5  # of six meetings one has no decided pair
    assert "mpd against uniform" in page
    row = next(r for r in page.split("<tr>") if '"row">soup</th><td>' in r and "Holm" in r)
    assert re.search(r"<td>100\.0 \(100\.0 to 100\.0\), p \S+, Holm \S+, n \d+</td>", row)


class Tags(HTMLParser):
    """What is opened and not closed, and all kinds of tags."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.kinds: set[str] = set()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        del attrs
        self.open.append(tag)
        self.kinds.add(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        del attrs
        self.kinds.add(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass


def page_of(**figures: Any) -> str:
    """The page of a run of which nothing else is known."""
    nothing: dict[str, Any] = {"quality": {}, "judges": {}, "identification": {}, "weights": {}}
    run = {"pack": "p", "count": 1, "prompts": "test"}
    validation, people = {"said": "k", "shares": {}}, {"meetings": []}
    about = {"run": run, "validation": validation, "people": people, "paper": {"table_3": []}}
    return html({**nothing, **about, **figures})


def test_the_worst_cell_is_framed_and_colours_follow_the_share() -> None:
    rows = {"AA": {"x": {"measure": 0.25}}, "AB": {"x": {"measure": 1.0}}}
    page = page_of(identification={"mpd": rows})
    assert '<td class="worst" style="background:oklch(87% 0.065 25)">0.25</td>' in page
    assert '<td style="background:oklch(77% 0.130 150)">1.00</td>' in page
    assert "mpd: mean 0.62" in page


def test_bars_show_each_weight_as_wide_as_it_is() -> None:
    row = {"experts": ["a", "b"], "tokens": 3, "by_kind": {"<x>": [0.05, 0.95]}}
    page = page_of(weights={"m&m": {"AB": {**row, "by_position": {"<first>": [0.25, 0.75]}}}})
    assert re.findall(r'width:([\d.]+)%;background:var\(--c(\d)\)">(.*?)<', page) == [
        ("25.0", "0", "0.25"),
        ("75.0", "1", "0.75"),
        ("5.0", "0", ""),
        ("95.0", "1", "0.95"),
    ]
    assert '<th scope="row">&lt;first&gt;</th>' in page
    assert 'aria-label="Mean weights of m&amp;m for AB"' in page


def test_a_win_rate_stands_where_it_is_between_its_ends() -> None:
    row = {"first": "a", "second": "b", "dimension": "<d>", "paper_rate": 0.6}
    people = {"votes": 3, "raters": 1, "meetings": [{**row, "paper_interval": (0.25, 0.75)}]}
    page = page_of(people=people)
    assert "a against b, &lt;d&gt;" in page
    assert 'left:25.0%;width:50.0%"' in page
    assert 'left:60.0%"' in page


def test_missing_replies_and_runs_are_said(written_run: Path, tmp_path: Path) -> None:
    lines = (written_run / "replies.jsonl").read_text().splitlines(keepends=True)
    (written_run / "replies.jsonl").write_text("".join(lines[:-2]))
    with pytest.raises(MPDError, match=r"2 of \d+ replies are missing: evaluate run"):
        replies_of(written_run, load_run(written_run))
    with pytest.raises(MPDError, match="there is no run: start with evaluate run"):
        load_run(tmp_path / "nowhere")
    (written_run / "run.json").write_text('{"pack": "x"}')
    with pytest.raises(MPDError, match=r"run.json: cannot be read"):
        report(DEFAULT, written_run, ())


class FirstComeJudge(Judge):
    """Likes whatever it reads first, as language models are known to; counts its answers."""

    def __init__(self) -> None:
        super().__init__("first", "1")
        self.asked = 0

    def knows(self, dimension: str) -> bool:
        return dimension != "length"

    def answers(self, questions: Sequence[Question]) -> Iterator[tuple[Question, Answer]]:
        for question in questions:
            self.asked += 1
            yield question, Answer(1, f"the first about {question.pole}")


def test_a_judge_that_likes_the_first_reply_decides_nothing(written_run: Path) -> None:
    """All its verdicts flip with the order, so all pairs tie; nothing is asked twice."""
    run = load_run(written_run)
    replies = replies_of(written_run, run)
    pairs = list(judging.pairs_of(DEFAULT.space, replies, ["mpd", "uniform"]))
    judge = FirstComeJudge()
    judging.judge_pairs(judge, pairs, written_run)
    assert judge.asked == len(pairs) * 2 * 2
    judging.judge_pairs(judge, pairs, written_run)
    assert judge.asked == len(pairs) * 2 * 2
    found = judged(judge, pairs, written_run)
    table = figures.matrix(found, ["mpd", "uniform"], None)
    assert table["flip_rate"] == 1
    assert table["meetings"][0]["ties"] == len(pairs)
    assert set(table["meetings"][0]["by_dimension"]) == {"expertise", "tone"}
    stored = list(read_rows(written_run / "verdicts-first.jsonl"))
    assert stored[0]["raw"] == "the first about elementary"
    assert {row["verdict"] for row in stored} == {"win"}
    assert {row["first"] for row in stored} == {"mpd", "uniform"}


def test_a_pair_that_is_judged_in_part_decides_nothing() -> None:
    """A judge is stopped after the dimension that MPD wins, and would have lost two: no verdict of
    that pair counts. A dimension that a preference leaves out, or a judge never speaks of, is none
    that is missing."""
    asked = {name: Question("?", name, "x", "Be x.", "a", "b") for name in ("x", "y", "z", "odd")}

    def pair(id: str, verdicts: dict[str, int], without: str = "") -> Judged:
        questions = {name: question for name, question in asked.items() if name != without}
        flips = dict.fromkeys(verdicts, False)
        return Judged(judging.Pair(id, "AA", "mpd", "soup", questions), verdicts, flips)

    rows = [
        pair("1", {"x": 1, "y": -1, "z": -1}),
        pair("2", {"x": 1}),
        pair("3", {"x": 1, "y": 1}, without="z"),
    ]
    (meeting,) = figures.matrix(rows, ["mpd", "soup"], None)["meetings"]
    assert (meeting["wins"], meeting["ties"], meeting["losses"]) == (1, 0, 1)
    assert meeting["by_dimension"]["x"]["wins"] == 2


def test_a_card_tells_what_a_judge_is_worth(tmp_path: Path) -> None:
    """Two prompts with all four preferences of two dimensions, by hand: the measures are right; one
    that likes the first reply is right in half, by ties, and flips always."""
    space = PreferenceSpace((DEFAULT.space.dimensions[0], DEFAULT.space.dimensions[2]))
    hard = "Photosynthetic carboxylation necessitates ribulose bisphosphate regeneration"
    answers = {
        "AA": "Plants eat light! Yay, my friend, let's hug a leaf! It is fun!",
        "AB": "Plants use light. Do not ask me. You could have read it. It is not hard. Stop it.",
        "BA": f"{hard}, my lovely friend! Let's party, darling! Hooray!",
        "BB": f"{hard}. You do not understand it, evidently. Stop asking. It is not my problem.",
    }
    rows = [Styled(name, "test", f"{name}?", answers) for name in "xy"]
    pairs = known_pairs(space, rows)
    assert len(pairs) == 2 * 8
    measured = MeasuresJudge(TextJudge.of(DEFAULT))
    for judge, right, flips in ((measured, 1.0, 0.0), (FirstComeJudge(), 0.5, 1.0)):
        judging.judge_pairs(judge, pairs, tmp_path)
        found = card(judged(judge, pairs, tmp_path), None)
        assert {name: row["pairs"] for name, row in found.items()} == {"expertise": 8, "tone": 8}
        assert {row["accuracy"] for row in found.values()} == {right}
        assert {row["flip_rate"] for row in found.values()} == {flips}
        longer = {row["prefers_longer"] for row in found.values()}
        assert longer == ({0.5} if judge is measured else {None})


def test_a_reply_that_loops_beats_nobody() -> None:
    """It would measure as elementary; a text that shows neither still wins against it."""
    judge = MeasuresJudge(TextJudge.of(DEFAULT))
    pole = DEFAULT.space.dimensions[0].poles[0]
    loop = "the cat sat on the mat and " * 12
    question = Question("?", "expertise", pole.name, pole.instruction, loop, "")
    assert judge.ask(question).verdict == 0
    other = replace(question, second="The cat sat on the mat. It had a nap. Then it ate a fish.")
    assert judge.ask(other).verdict == -1
    assert judge.ask(other.swapped).verdict == 1


def test_length_is_never_controlled_for_itself() -> None:
    """Two pairs that the longer reply wins on length alone: nothing else is won or lost."""
    asked = Question("?", "length", "long", "Be long.", "", "word")
    texts = [{"length": replace(asked, first="word " * count)} for count in (41, 51)]
    rows = [
        Judged(judging.Pair(str(n), "AA", "mpd", "soup", text), {"length": 1, "tone": 0}, {})
        for n, text in enumerate(texts)
    ]
    meeting = figures.matrix(rows, ["mpd", "soup"], "length")["meetings"][0]
    assert meeting["worst"] == {"AA": ("tone", 0.5)}
    assert meeting["paper_rate"] == 1
    assert meeting["length_controlled"] == pytest.approx(0.5)
    assert "length_controlled" not in meeting["by_dimension"]["length"]


def test_single_experts_meet_only_mpd() -> None:
    methods = ["vanilla", "mpd", "expert:a", "expert:b"]
    assert meetings(methods) == [
        ("mpd", "vanilla"),
        ("mpd", "expert:a"),
        ("mpd", "expert:b"),
    ]
    assert meetings(["soup", "uniform"]) == [("soup", "uniform")]


def test_weights_are_averaged_by_position_and_kind_of_word() -> None:
    """Six tokens by hand: 'The| photo|synth|esis|,| is': function, content three times, other."""
    pieces = ["The", " photo", "synth", "esis", ",", " is"]
    assert kinds(pieces) == [
        "function words",
        *["content words"] * 3,
        "other",
        "function words",
    ]
    weights = [[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [0.5, 0.5], [0.8, 0.2]]
    row = {"method": "mpd", "code": "AA", "experts": ["a", "b"], "weights": weights}
    row["pieces"] = pieces
    assert positions(row) == ["first third"] * 2 + ["second third"] * 2 + ["last third"] * 2
    found = weights_by([row])["mpd"]["AA"]
    assert found["by_kind"]["function words"] == pytest.approx([0.9, 0.1])
    assert found["by_kind"]["content words"] == [0.0, 1.0]
    assert found["by_position"]["first third"] == [0.5, 0.5]
    assert found["tokens"] == 6
    assert weights_by([{**row, "weights": [[0.5, 0.5]] * 6}]) == {}
    assert kinds(["", "a", "", " ", "bc", "\n"]) == [
        "other",
        "function words",
        "other",
        "other",
        "content words",
        "other",
    ]
