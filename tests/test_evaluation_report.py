"""Tables as the paper has them, README's results, and everything by one command."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mpd_core.bench.run import run
from mpd_core.bench.values import BenchOptions
from mpd_core.cli import main
from mpd_core.errors import MPDError, RequestError
from mpd_core.evaluation import full as whole
from mpd_core.evaluation import paper
from mpd_core.evaluation.efficiency import KINDS, WAYS, efficiency, save
from mpd_core.evaluation.full import Settings, full, set_name, usual_methods
from mpd_core.evaluation.identified import judges_of
from mpd_core.evaluation.prompts import Prompt
from mpd_core.evaluation.readme import BEGIN, END, RESULTS, keep, rewrite, runs_of, short, stored
from mpd_core.evaluation.record import read_rows
from mpd_core.evaluation.report import report
from mpd_core.evaluation.statistics import Tally, bradley_terry
from mpd_core.evaluation.tables import heat
from mpd_core.packs import Pack, load_pack
from mpd_core.rendering import table
from mpd_core.request import Sampling
from tests.judge_server import JudgeServer
from tests.training_fixtures import write_training_pack
from tests.vote_fixtures import vote

MEASURES = 'up0 = "-grade"\ndown0 = "grade"\nup1 = "words"\ndown1 = "-words"'
PAPER = {
    ("mpd", "vanilla"): 0.8311,
    ("mpd", "prompting"): 0.6113,
    ("mpd", "soup"): 0.5459,
    ("uniform", "vanilla"): 0.7888,
    ("uniform", "prompting"): 0.5022,
    ("uniform", "soup"): 0.5126,
    ("prompting", "vanilla"): 0.8157,
    ("soup", "vanilla"): 0.7910,
    ("soup", "prompting"): 0.5134,
}
"""Its Table 2."""


def meeting(first: str, second: str, rate: float | None) -> dict[str, Any]:
    return {
        "first": first,
        "second": second,
        "paper_rate": rate,
        "paper_interval": None,
        "p": 0.5,
        "p_holm": 1.0,
        "wins": 3,
        "losses": 1,
    }


def judge() -> dict[str, Any]:
    return {
        "meetings": [meeting(*pair, rate) for pair, rate in PAPER.items()],
        "strengths": {"mpd": 1100, "uniform": 1000, "soup": 1010, "prompting": 990, "vanilla": 700},
    }


def test_table_2_is_the_papers_with_the_papers_averages() -> None:
    """From its pairwise rates alone: averages and reversed pairs come out as printed there."""
    methods = ["vanilla", "prompting", "soup", "uniform", "mpd", "expert:friendly"]
    table = paper.table_2(judge(), methods)
    assert table["columns"] == ["vanilla", "prompting", "soup", "mpd"]
    averages = {name: round(100 * row["average"], 2) for name, row in table["rows"].items()}
    assert averages == {
        "vanilla": 18.74,
        "prompting": 56.37,
        "soup": 58.62,
        "mpd": 66.28,
        "uniform": 60.12,
    }
    assert table["rows"]["vanilla"]["rates"]["mpd"] == pytest.approx(0.1689)
    assert "vanilla" not in table["rows"]["vanilla"]["rates"]


def test_tables_3_and_4_take_what_there_is() -> None:
    rows = paper.table_3({"a": judge(), "people": {"meetings": [meeting("mpd", "soup", 0.6)]}})
    by_method = {row["second"]: row["judges"] for row in rows}
    assert by_method["soup"]["people"]["rate"] == 0.6
    assert by_method["soup"]["a"]["decided"] == 4
    assert set(by_method) == {"vanilla", "prompting", "soup"}
    found = judge()
    found["meetings"] += [meeting("uniform@logit", "vanilla", 0.5), meeting("x", "soup", None)]
    methods = ["mpd", "uniform", "uniform@logit", "soup"]
    training = {"method": "REBEL", "reward": "bradley terry"}
    table = {r["method"]: r for r in paper.table_4(found, methods, "probability", training)}
    assert set(table) == {"mpd", "uniform", "uniform@logit"}
    assert round(table["mpd"]["average"], 4) == 0.6628
    assert (table["mpd"]["training"], table["uniform"]["training"]) == ("REBEL", "–")
    assert (table["uniform@logit"]["space"], table["uniform"]["space"]) == ("logit", "probability")
    assert table["uniform@logit"]["average"] == 0.5


def test_the_order_is_stated_as_found() -> None:
    found = paper.order(judge())
    assert found == ["vanilla", "prompting", "uniform", "soup", "mpd"]
    said = paper.order_said(found, judge()["meetings"])
    assert "uniform < soup < mpd (in the paper vanilla < prompting < soup < uniform < mpd)" in said
    assert "as in the paper" in paper.order_said(["vanilla", "soup", "mpd"], [])


def test_neighbours_that_chance_may_have_ordered_are_named() -> None:
    """By Holm's p of their own meeting, whichever stood first in it, or where they never met."""
    met = [
        {**meeting("mpd", "soup", 0.6), "p_holm": 0.04},
        {**meeting("vanilla", "soup", 0.1), "p_holm": 0.06},
        {**meeting("vanilla", "mpd", 0.1), "p_holm": 0.001},
    ]
    assert "Chance alone may order vanilla and soup (" in paper.order_said(
        ["vanilla", "soup", "mpd"], met
    )
    assert "mpd and top-1 (" in paper.order_said(["soup", "mpd", "top-1"], met)
    assert "Chance" not in paper.order_said(["soup", "mpd"], met)


def test_strengths_are_the_likeliest_of_davidsons_model() -> None:
    """As scipy finds them, from a table with ties and uneven counts."""
    optimize = pytest.importorskip("scipy.optimize")
    table = {("a", "b"): (7, 4, 3), ("b", "c"): (6, 1, 2), ("a", "c"): (9, 5, 4)}

    def unlikely(x: Any) -> float:
        log = {"a": x[0], "b": 0.0, "c": x[1]}
        total = 0.0
        for (one, other), seen in table.items():
            odds = [log[one], x[2] + (log[one] + log[other]) / 2, log[other]]
            total -= sum(n * o for n, o in zip(seen, odds, strict=True))
            total += sum(seen) * math.log(sum(map(math.exp, odds)))
        return total

    best = optimize.minimize(unlikely, [0.0, 0.0, 0.0], tol=1e-10).x
    ours = bradley_terry({pair: Tally(*seen) for pair, seen in table.items()}, "b")
    for name, found in (("a", best[0]), ("c", best[1])):
        assert (ours[name] - 1000) / 400 * math.log(10) == pytest.approx(found, abs=2e-3)


@pytest.fixture
def pack(tiny_base: Path, tmp_path: Path) -> Pack:
    """Two dimensions with measures for every pole."""
    folder = tmp_path / "pack"
    folder.mkdir()
    write_training_pack(folder, tiny_base, adapters=True)
    recipe = folder / "train.toml"
    recipe.write_text(recipe.read_text().replace('up0 = "-grade"', MEASURES))
    return load_pack(folder)


def settings(**chosen: Any) -> Settings:
    usual = {"methods": "mpd,uniform,vanilla", "judges": ("measures",), "known": 4}
    return Settings(sampling=Sampling(max_new_tokens=5), **{**usual, **chosen})  # type: ignore[arg-type]


def test_everything_is_made_judged_and_written_into_readme(
    pack: Pack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two sets of prompts; run again nothing is generated; README has the figures of the reports
    and keeps them when the runs are gone; other weights make them void."""
    prompts, root = tmp_path / "koala x.txt", tmp_path / "runs"
    prompts.write_text("Why?\nHow?\nWhat?\n")
    options = ["--pack", str(pack.folder), "--out", str(root)]
    asked = ["--prompts", "test", "--prompts", str(prompts), "--methods", "mpd,uniform,vanilla"]
    asked += ["--judges", "measures", "--max-new-tokens", "5", "--limit", "2"]
    assert main(["evaluate", "full", *options, *asked]) == 0
    assert [folder.name for folder in runs_of(root)] == ["evaluation-koala-x", "evaluation-test"]
    before = (root / "evaluation-test" / "replies.jsonl").read_bytes()
    assert len(before.splitlines()) == 2 * (4 + 4 + 1)
    assert main(["evaluate", "full", *options, *asked]) == 0
    assert (root / "evaluation-test" / "replies.jsonl").read_bytes() == before

    readme = tmp_path / "README.md"
    readme.write_text(f"# Mine\n{BEGIN}\nold figures\n{END}\nThe end.\n")
    assert main(["evaluate", "readme", *options, "--file", str(readme)]) == 0
    text = readme.read_text()
    assert "old figures" not in text
    assert text.startswith("# Mine\n")
    assert text.endswith("\nThe end.\n")
    whole = (pack.folder / RESULTS).read_text()
    assert f"[RESULTS.md]({pack.folder.name}/RESULTS.md)" in text
    assert "## koala-x\n" in whole
    heat_rows = [
        line for line in whole.split("## test\n")[1].splitlines() if "| vanilla | " in line
    ]
    assert any({*"🟥⬜🟩"} & {*line} for line in heat_rows)  # no method is left out
    found = json.loads((root / "evaluation-test" / "report.json").read_text())
    rate = found["paper"]["judges"]["measures"]["table_2"]["rows"]["uniform"]["average"]
    row = next(line for line in whole.split("## test\n")[1].splitlines() if "| uniform |" in line)
    assert row.endswith(f"| {'–' if rate is None else f'{100 * rate:.1f}'} |")
    assert found["run"]["replies_sha256"][:12] in whole
    kept = (pack.folder / "evaluation" / "koala-x.json").read_text()
    assert json.loads(kept)["run"]["prompts"] == "koala x.txt"
    assert str(tmp_path) not in kept + text + whole  # a place on one machine is nobody's business
    assert "Why?" not in kept

    shutil.rmtree(root)
    assert main(["evaluate", "readme", *options, "--file", str(readme)]) == 0
    assert readme.read_text() == text
    assert (pack.folder / RESULTS).read_text() == whole
    toml = pack.folder / "pack.toml"
    toml.write_text(toml.read_text().replace("Please go up 0.", "Go up."))
    capsys.readouterr()
    assert main(["evaluate", "readme", *options, "--file", str(readme)]) == 2
    assert "its run is of other weights or settings" in capsys.readouterr().err
    assert readme.read_text() == text


def test_readme_without_runs_or_marks_is_left_alone(pack: Pack, tmp_path: Path) -> None:
    with pytest.raises(MPDError, match=r"no stored run of this pack: evaluate full"):
        stored(pack)
    readme = tmp_path / "README.md"
    for text in ("no marks", f"{END}{BEGIN}", f"{BEGIN}{BEGIN}{END}"):
        readme.write_text(text)
        with pytest.raises(MPDError, match="once each, in order"):
            rewrite(readme, pack, {})
        assert readme.read_text() == text
        assert not (pack.folder / RESULTS).exists()
    (pack.folder / "evaluation").mkdir()
    (pack.folder / "evaluation" / "x.json").write_text("[]")
    with pytest.raises(MPDError, match=r"x.json: not a report"):
        stored(pack)


def test_the_projects_readme_has_the_marks() -> None:
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    assert text.count(BEGIN) == text.count(END) == 1
    assert text.index(BEGIN) < text.index(END)


def test_readmes_table_by_hand() -> None:
    """Of every set: MPD and the baselines alone, a win rate of the method and not of MPD with its
    interval turned, an earlier judge named; a name from a file draws no cell of its own."""
    cell = {"mean": 0.875, "worst": ["AB", "d0", 0.5], "whole": None}
    mine = {**meeting("mpd", "so|up", 0.75), "paper_interval": [0.6, 0.8]}
    order = {"order": ["soup", "mpd"]}
    methods = ["mpd", "so|up", "mpd@logit", "expert:x", "dare"]
    found = {
        "run": {"count": 3, "methods": methods},
        "identified": {
            "mpd": {"measure": cell, "measure_forced": cell},
            "so|up": {"rewards": cell},
        },
        "judges": {
            "measures": {"version": "old", "meetings": [mine]},
            "rewards": {"version": "r", "meetings": [meeting("mpd", "dare", None)]},
        },
        "paper": {"judges": {"measures": order, "rewards": order}},
        "validation": {"said": "Right in 0.95."},
        "quality": {"mpd": {"replies": 24}, "so|up": {"replies": 24}, "dare": {"replies": 8}},
        "identification": {
            "mpd": {"A": {"x": {"measure": 0.9, "rewards": 0.1}}, "B": {"x": {"measure": 0.2}}},
            "so|up": {"A": {"x": {"measure": 0.7}}},
        },
    }
    lines = short({"a": found}, None, ("new", "r")).splitlines()
    assert lines[2:5] == [
        "| a | mpd | 0.88, 0.50 | – | – | – |",
        "|  | so\\|up | – | 0.88, 0.50 | 0.25 (0.20 to 0.40) | – |",
        "|  | dare | – | – | – | – |",
    ]
    assert [line for line in lines if "| x |" in line] == ["| mpd, a | x | 🟩 90.0 | 🟥 **20.0** |"]
    (said,) = [line for line in lines if line.startswith("- a, 3 prompts.")]
    assert "prompts. Some methods have only the first of them: dare 1. Judge" in said
    assert "Judge measures of an earlier version: From worst" in said
    assert "Judge rewards: From worst to best by Bradley-Terry: soup < mpd" in said
    assert "earlier" not in short({"a": found}, None, ("new", "old", "r"))
    assert "Judge rewards of an earlier version" in short({"a": found}, None, ("old",))
    twice = short({"a": found, "b": found}, None, ("old",)).splitlines()
    assert twice.count("- Measures: Right in 0.95.") == 1  # what the judge is worth, with its table


class Clock:
    """Each look at it takes a minute."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 60
        return self.now


def test_a_full_run_ends_with_its_time_and_whole_prompts(
    pack: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each set has its share of the time and at least one turn; a report of what is there works."""
    prompts = tmp_path / "many.txt"
    prompts.write_text("".join(f"Question {n}?\n" for n in range(20)))
    monkeypatch.setattr(whole, "time", Clock())
    said: list[str] = []
    asked = settings(prompts=(str(prompts), "test"), minutes=10.0)
    folders = full(pack, asked, tmp_path / "runs", (), said.append)
    counts = [len({row["id"] for row in read_rows(f / "replies.jsonl")}) for f in folders]
    assert 2 <= counts[0] < 20
    assert counts[1] >= 1
    assert f"replies to {counts[0]} of 20 prompts" in " ".join(said)
    assert report(pack, folders[0], ())["run"]["count"] == counts[0]
    full(pack, replace(asked, minutes=math.inf), tmp_path / "runs", ())  # goes on, without an end
    assert report(pack, folders[0], ())["run"]["count"] == 20


def test_a_server_judges_a_full_run_under_the_same_options_as_a_single_step(
    pack: Pack, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Estimate, cap, key and sample; what cannot be is refused before anything is generated."""
    server = JudgeServer(lambda _: "Verdict: 1")
    root = tmp_path / "runs"
    asked = ["evaluate", "full", "--pack", str(pack.folder), "--out", str(root), "--limit", "1"]
    asked += ["--methods", "mpd,vanilla", "--max-new-tokens", "5", "--judges", "server"]
    for options, said in (
        ([], "--url"),
        (["--url", server.url], "--model"),
        (["--url", server.url, "--model", "m", "--price", "x"], "--price x: give IN,OUT"),
        (["--url", server.url, "--model", "m", "--most-cost", "1"], "--most-cost needs --price"),
    ):
        assert main([*asked, *options]) == 2
        assert said in capsys.readouterr().err
        assert not root.exists()
    monkeypatch.setenv("MINE", "a secret")
    known = ["--url", server.url, "--model", "m", "--key-env", "MINE", "--price", "1,1"]
    assert main([*asked, *known, "--most-cost", "0.001"]) == 2
    assert "more than the cap allows" in capsys.readouterr().err
    assert not server.asked
    assert main([*asked, *known, "--pairs", "2"]) == 0
    assert "questions, about" in capsys.readouterr().err
    assert {body["authorization"] for body in server.asked} == {"Bearer a secret"}
    rows = list(read_rows(root / "evaluation-test" / "verdicts-server-m.jsonl"))
    assert len({(r["id"], r["code"]) for r in rows if r["first"] in ("mpd", "vanilla")}) == 2
    page = (root / "evaluation-test" / "report.html").read_text()
    assert "Who wins, by the judge server-m" in page
    assert "Average win rate over the three baselines" in page  # Table 4
    assert '<th scope="col">merging space</th>' in page
    assert "Its card: written answers" in page
    server.shutdown()
    server.server_close()


def test_what_cannot_be_evaluated_is_refused_before_anything_runs(
    pack: Pack, tmp_path: Path
) -> None:
    for chosen, said in (
        ({"judges": ("nobody",)}, "Unknown judge 'nobody'"),
        ({"methods": "magic"}, "Unknown method 'magic'"),
        ({"prompts": ("test", "nowhere.txt")}, "nowhere.txt: no such file"),
        ({"judges": ("server",)}, "needs --url and --model"),
    ):
        with pytest.raises(RequestError, match=said):
            full(pack, settings(**chosen), tmp_path / "runs", ())
    assert not (tmp_path / "runs").exists()
    with pytest.raises(RequestError, match="two sets have the same name"):
        settings(prompts=("a/x.jsonl", "b/x.txt"))
    with pytest.raises(RequestError, match="--minutes"):
        settings(minutes=float("nan"))
    assert set_name("../data/eval koala.jsonl") == "eval-koala"
    assert "dare" not in usual_methods(pack)
    assert {"expert:up0", "uniform@logit"} <= set(usual_methods(pack))


def test_votes_stand_in_the_report_of_the_replies_that_they_are_on(
    pack: Pack, tmp_path: Path
) -> None:
    (folder,) = full(pack, settings(limit=1), tmp_path / "runs", ())
    content = json.loads((folder / "run.json").read_text())["content"]
    mine = [replace(vote(r, "1", tone=1), content=content, second="vanilla") for r in ("a", "b")]
    other = vote("c", "1", tone=-1)
    found = report(pack, folder, (), [*mine, other])
    assert (found["people"]["votes"], found["people"]["raters"]) == (2, 2)
    row = next(r for r in found["paper"]["table_3"] if r["second"] == "vanilla")
    assert row["judges"]["people"]["rate"] == 1.0
    assert "2 votes by 2 raters" in (folder / "report.md").read_text()
    assert "2 votes by 2 raters" in (folder / "report.html").read_text()
    assert keep(pack, folder).name == "test.json"


def bench_file(folder: Path, **data: Any) -> Path:
    file = folder / "bench.txt"
    found = {"bench": "mpd", "machine": {"cpu": "<x>", "cores": 2, "gpu": None}, "data": data}
    file.write_text("figure  value\n----\n" + json.dumps(found) + "\n")
    return file


def spread(median: float) -> dict[str, float]:
    return {"median": median, "min": median, "max": median}


def test_the_papers_32_requests_and_its_model_stand_beside_what_was_measured(
    pack: Pack, tmp_path: Path
) -> None:
    """6 s against 15 and 3: 40% and 200%; steps of 10, 12 and 60 ms: 1, 1.2 and 6 times one."""
    points = [
        {"x": n, "requests": n, "experts": 3, "ms_per_step": ms, "tokens_per_s": 1.0}
        for n, ms in ((1, 10.0), (2, 12.0), (16, 60.0))
    ]
    seconds = {"mpd": spread(6.0), "a": spread(15.0), "c": spread(3.0)}
    crowd = {"requests": 32, "preferences": 8, "seconds": seconds}
    file = bench_file(tmp_path, serve32=crowd, growth={"lines": {"requests": points}})
    out = tmp_path / "runs" / "efficiency"
    assert main(["evaluate", "efficiency", str(file), "--out", str(out)]) == 0
    text = (out / "efficiency.md").read_text()
    assert "| soups one by one, transformers, as in the paper | 0.469 | 0.188 | 40.0 |" in text
    assert "| soups as stacked adapters, one batch, this engine | 0.094 | 0.188 | 200.0 |" in text
    assert "| 16 | 6.00 | 1.00 | 0.375 | 0.062 |" in text
    page = (out / "efficiency.html").read_text()
    assert page.count('fill="none"') == 3
    assert "<x>" not in page
    full(pack, settings(limit=1), tmp_path / "runs", ())
    readme = tmp_path / "README.md"
    readme.write_text(f"{BEGIN}{END}")
    asked = ["--pack", str(pack.folder), "--out", str(tmp_path / "runs"), "--file", str(readme)]
    assert main(["evaluate", "readme", *asked]) == 0
    assert "| 13.25 | 10.48 | 79.1 |" in (pack.folder / RESULTS).read_text()
    said = (
        "32 requests, time of MPD: 40.0% of soups one by one, transformers, as in the paper; 200.0%"
    )
    assert said in readme.read_text()


def test_what_the_bench_really_prints_is_read(
    tiny_pack_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bench itself on the tiny model: its 32 requests, here 4, in the paper's form, and the
    plot of the paper's model against what it has measured."""
    options = BenchOptions(only=("serve32", "growth"), pack=str(tiny_pack_dir), device="cpu")
    run(options.quick(), apart=False)
    file = tmp_path / "bench.txt"
    file.write_text(capsys.readouterr().out)
    found = efficiency(file)
    assert {row["way"] for row in found["crowd"]["rows"]} >= {WAYS["a"], WAYS["b"], WAYS["c"]}
    assert [row["requests"] for row in found["growth"]["rows"]][:2] == [1, 2]
    page = save(found, tmp_path / "out").read_text()
    assert page.count('fill="none"') == len(KINDS) == 3
    assert "4 simultaneous requests" in page


def test_what_is_no_result_of_the_bench_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "x"
    for content in ("", "no line", '{"a": 1}', '{"machine": {}, "data": []}'):
        broken.write_text(content)
        with pytest.raises(MPDError, match=r"x: holds no result of the bench"):
            efficiency(broken)
    with pytest.raises(MPDError, match="neither serve32 nor growth"):
        efficiency(bench_file(tmp_path))
    for steps in ({2: 9.0, 4: 9.0}, {1: 0.0, 2: 9.0}, {1: 5.0, 2: None}, {1: 5.0, 2: -1.0}):
        points = [{"requests": n, "experts": 3, "ms_per_step": ms} for n, ms in steps.items()]
        with pytest.raises(MPDError, match="holds no result of the bench"):
            efficiency(bench_file(tmp_path, growth={"lines": {"requests": points}}))


def test_the_line_over_requests_is_found_wherever_it_stands(tmp_path: Path) -> None:
    """The bench draws lines over experts as well."""
    experts = [{"requests": 8, "experts": n, "ms_per_step": 9.0 * n} for n in (1, 2, 3)]
    requests = [{"requests": n, "experts": 3, "ms_per_step": 5.0 + n} for n in (1, 2)]
    found = efficiency(bench_file(tmp_path, growth={"lines": {"x": experts, "y": requests}}))
    assert [row["requests"] for row in found["growth"]["rows"]] == [1, 2]
    assert found["growth"]["rows"][1]["measured"] == pytest.approx(7 / 6)


def test_baselines_that_join_weights_follow_group_by_group() -> None:
    """The first group is small, so that every method is in every report."""
    prompts = [Prompt(str(n), "?") for n in range(7)]
    turns = [
        ([p.id for p in some], names) for some, names in whole._in_turn(prompts, ["mpd", "ties"])
    ]
    assert turns == [
        (["0", "1"], ["mpd"]),
        (["2", "3"], ["mpd"]),
        (["0", "1", "2", "3"], ["ties"]),
        (["4", "5"], ["mpd"]),
        (["6"], ["mpd"]),
        (["4", "5", "6"], ["ties"]),
    ]
    assert [names for _, names in whole._in_turn(prompts[:1], ["arrow"])] == [["arrow"]]
    many = [Prompt(str(n), "?") for n in range(50)]
    assert [len(some) for some, _ in whole._in_turn(many, ["arrow"])] == [4, 16, 16, 14]
    assert list(whole._in_turn(many[:4], ["arrow"])) == [(many[:4], ["arrow"])]


def test_the_heat_table_has_every_method_dimension_and_judge() -> None:
    """By hand: two methods, two judges; a method's worst cell is bold, what is unknown a dash."""
    shown = {
        "mpd": {
            "AA": {"x": {"measure": 0.2, "r": 1.0}, "y": {"measure": 0.9}},
            "AB": {"x": {"measure": 0.5}},
        },
        "soup|": {"AA": {"x": {"r": 0.4}}},
    }
    assert judges_of(shown) == ["measure", "r"]
    assert table(heat(shown, "measure")).splitlines()[2:] == [
        "| mpd | x | 🟥 **20.0** | ⬜ 50.0 |",
        "| mpd | y | 🟩 90.0 | – |",
    ]
    assert table(heat(shown, "r")).splitlines()[3] == "| soup\\| | x | ⬜ **40.0** | – |"
    assert heat(shown, "nobody")[1] == []
