"""Votes of people: kept under kill and concurrency, counted once, and what they say."""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import shutil
import sqlite3
from pathlib import Path

import pytest

from mpd_core.errors import MPDError
from mpd_core.evaluation.votes import ALL, Votes, agreement, alpha, folder, meetings_of
from mpd_core.packs import Pack, load_pack
from mpd_core.training.data import load_styles
from mpd_core.ui.people.ballots import Ballots, Place, swapped
from mpd_core.ui.people.results_page import _shown
from mpd_core.ui.people.voting import ANEW, THANKS, TWICE, Shown, Voting, rater_of
from tests.vote_fixtures import killed, many, vote, write_run

ANN, BOB = "a" * 32, "b" * 32
NONE = float("nan")
WHOLE = load_pack("smollm2-135m")


@pytest.fixture
def pack(tmp_path: Path) -> Pack:
    """The default one's dimensions, without the replies that it brings along."""
    return Pack(WHOLE.spec, tmp_path / "pack")


@pytest.fixture
def place(pack: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Votes and a run in a folder of their own."""
    monkeypatch.setenv("MPD_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / pack.spec.name / "evaluation", pack)
    return Place(pack)


def test_a_vote_is_kept_when_the_app_is_killed(tmp_path: Path) -> None:
    """Whatever had been told to a rater as counted is there; the file goes on working."""
    file, done = tmp_path / "v.sqlite3", tmp_path / "done"
    told = killed(file, done, after=25)
    assert len(told) >= 25
    stored = {found.pair for found in Votes(file).all()}
    assert set(told) <= stored
    assert len(stored) <= len(told) + 1
    assert Votes(file).cast(vote("killed", "one more"))
    with sqlite3.connect(file) as opened:
        assert opened.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert opened.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    opened.close()


def test_concurrent_raters_lose_nothing_and_nobody_counts_twice(tmp_path: Path) -> None:
    """Four processes; two of them are the same rater in two tabs."""
    file = tmp_path / "v.sqlite3"
    context = multiprocessing.get_context("spawn")
    raters = ("ann", "bob", "cec", "ann")
    busy = [context.Process(target=many, args=(file, rater, 25)) for rater in raters]
    for process in busy:
        process.start()
    for process in busy:
        process.join()
        assert process.exitcode == 0
    votes = Votes(file)
    assert len(votes.all()) == 3 * 25
    assert votes.counts() == {str(number): 3 for number in range(25)}
    assert votes.done("ann") == {str(number) for number in range(25)}
    assert not votes.cast(vote("ann", "0", tone=-1))
    assert votes.all()[0].verdicts == {"tone": 1}


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(MPDError, match=r"file/v.sqlite3: votes cannot be kept there .*MPD_DATA"):
        Votes(tmp_path / "file" / "v.sqlite3")
    other = tmp_path / "other.sqlite3"
    other.write_bytes(b"no database at all, but long enough to be looked at" * 40)
    with pytest.raises(MPDError, match=r"other.sqlite3: votes cannot be kept there"):
        Votes(other)


def test_the_csv_has_a_column_a_dimension_and_no_formulas(tmp_path: Path) -> None:
    votes = Votes(tmp_path / "v.sqlite3")
    votes.cast(vote("ann", "1", prompt='=HYPERLINK("x")', tone=1, length=-1))
    votes.cast(vote("bob", "1", prompt="a,\nb", tone=0))
    rows = list(csv.DictReader(io.StringIO(votes.csv())))
    assert [row["prompt"] for row in rows] == ['\'=HYPERLINK("x")', "a,\nb"]
    assert [(row["tone"], row["length"]) for row in rows] == [("1", "-1"), ("0", "")]
    assert rows[0]["first"] == "mpd"
    assert rows[0]["at"].endswith("+00:00")


def test_pairs_are_mpd_with_others_that_say_something_else(place: Place, pack: Pack) -> None:
    """Two prompts, two preferences, two opponents; soup and uniform are not asked about."""
    ballots = place.ballots()
    assert len(ballots) == 2 * 2 * 2
    seen: dict[str, int] = {}
    done: set[str] = set()
    while key := ballots.draw(len(done), done, seen):
        assert ballots.pairs[key].first == "mpd"
        assert ballots.pairs[key].whole.first.startswith("mpd")
        assert key == ballots.draw(len(done), done, seen)
        done.add(key)
    assert len(done) == 8
    first = ballots.draw(5, set(), {})
    assert first
    assert ballots.draw(5, set(), {first: 1}) != first  # fewest votes come first
    assert {swapped(seed) for seed in range(20)} == {True, False}
    assert abs(sum(swapped(seed) for seed in range(1000)) - 500) < 80
    assert place.ballots() is ballots
    write_run(folder() / pack.spec.name / "newer", pack, mark="!")
    assert place.ballots() is not ballots


def test_an_app_without_a_run_says_how_to_make_one(
    pack: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPD_DATA", str(tmp_path / "data"))
    assert "python -m mpd_core evaluate run" in Voting(Place(pack)).next(ANN).note
    folder = tmp_path / "data" / pack.spec.name / "other"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text('{"seed": 3}')  # as a training leaves one
    assert "python -m mpd_core evaluate run" in Voting(Place(pack)).next(ANN).note


def test_the_default_pack_brings_replies_to_vote_on(
    pack: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of its own test prompts, whole, and only until the host has a run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPD_DATA", str(tmp_path / "data"))
    shown = Voting(Place(WHOLE)).next(ANN)
    assert shown.note == ""
    assert all(shown.texts)
    assert len(Place(WHOLE).ballots()) > 150
    (run,) = (WHOLE.folder / "evaluation").glob("*/run.json")
    test = {row.prompt for row in load_styles(WHOLE.path("../../data/styles.jsonl")).split("test")}
    replies = [json.loads(line) for line in (run.parent / "replies.jsonl").read_text().splitlines()]
    assert {row["prompt"] for row in replies} < test
    write_run(folder() / pack.spec.name / "evaluation", WHOLE)
    assert len(Place(WHOLE).ballots()) == 8


def test_people_go_on_voting_while_a_newer_run_is_generated(place: Place, pack: Pack) -> None:
    """On the run before, which is whole; on the new one as soon as it is, and not before."""
    before = place.ballots()
    newer = folder() / pack.spec.name / "newer"
    write_run(newer, pack, mark="!")
    whole = (newer / "replies.jsonl").read_text()
    (newer / "replies.jsonl").write_text("".join(whole.splitlines(keepends=True)[:3]))
    assert place.ballots() is before
    shutil.rmtree(folder() / pack.spec.name / "evaluation")
    assert "9 of 12 replies are missing" in Voting(place).next(ANN).note
    (newer / "replies.jsonl").write_text(whole)
    assert Voting(place).next(ANN).pair


def answered(shown: Shown, better: str) -> list[str]:
    """In every row the output whose text begins with a word."""
    first = shown.texts[0].startswith(better)
    return ["Output 1" if first else "Output 2"] * 3


def test_a_rater_judges_every_pair_once_whatever_the_order(place: Place) -> None:
    voting = Voting(place)
    shown = voting.next(ANN)
    orders = set()
    while shown.pair:
        orders.add(swapped(shown.state["seed"]))
        found = voting.cast(ANN, shown.state, answered(shown, "mpd"))
        assert isinstance(found, Shown)
        shown = found
    assert shown.note == THANKS
    assert shown.done == 8
    votes = place.votes().all()
    assert len(votes) == 8
    assert {tuple(vote.verdicts.values()) for vote in votes} == {(1, 1, 1)}
    assert {vote.rater for vote in votes} == {rater_of(ANN)}
    assert {vote.content for vote in votes} == {"content"}
    assert ANN not in json.dumps([vote.rater for vote in votes])
    assert {vote.swapped for vote in votes} == orders
    assert voting.next(BOB).pair


def test_a_vote_that_cannot_count_is_told(place: Place, pack: Pack) -> None:
    """Rows that are open, a pair judged in another tab, replies that have changed, no cookie."""
    voting = Voting(place)
    shown = voting.next(ANN)
    for choices in (["Output 1", None, "Tie"], ["Output 1", "Output 3", "Tie"]):
        assert "in every row" in str(voting.cast(ANN, shown.state, choices))
    assert place.votes().all() == []
    ties = ["Tie"] * 3
    assert isinstance(voting.cast(ANN, shown.state, ties), Shown)
    again = voting.cast(ANN, shown.state, ["Output 1"] * 3)
    assert isinstance(again, Shown)
    assert again.note == TWICE
    assert [dict(vote.verdicts) for vote in place.votes().all()] == [
        {"expertise": 0, "length": 0, "tone": 0}
    ]
    write_run(folder() / pack.spec.name / "evaluation", pack, mark="!")
    changed = voting.cast(BOB, shown.state, ties)
    assert isinstance(changed, Shown)
    assert changed.note == ANEW
    for bad in ("", "x", "A" * 32, None):
        assert "reload" in voting.next(bad).note  # type: ignore[arg-type]
    assert len(place.votes().all()) == 1


def test_a_host_without_a_lasting_disk_says_so(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MPD_DATA", raising=False)
    monkeypatch.setenv("SPACE_ID", "someone/studio")
    assert "Votes are lost when this Space restarts" in Place(pack).warning
    monkeypatch.setenv("MPD_DATA", "/data")
    assert Place(pack).warning == ""
    assert folder() == Path("/data")


def test_results_count_by_the_papers_rule_and_by_dimension() -> None:
    """Three votes by hand: sums 2, 0 and -1; tone 1, 1, -1; length 1, -1, 0."""
    votes = [
        vote("ann", "1", "p1", tone=1, length=1),
        vote("ann", "2", "p2", tone=1, length=-1),
        vote("bob", "2", "p2", tone=-1, length=0),
    ]
    found = {row["dimension"]: row for row in meetings_of(votes)}
    counts = {name: (row["wins"], row["ties"], row["losses"]) for name, row in found.items()}
    assert counts == {ALL: (1, 1, 1), "tone": (2, 0, 1), "length": (1, 1, 1)}
    assert found[ALL]["paper_rate"] == 0.5
    assert found[ALL]["paper_interval"] == (0.0, 1.0)


def test_agreement_is_krippendorffs_alpha() -> None:
    """Full agreement is 1, chance 0; the interval example of his own text is 0.849."""
    assert alpha([[1, 1], [-1, -1], [0, 0, 0]]) == 1.0
    assert alpha([[1, -1], [-1, 1]]) == pytest.approx(-0.5)
    assert alpha([[1], [0]]) is None
    assert alpha([[1, 1], [1, 1]]) is None
    columns = [  # Krippendorff (2011), four observers, twelve units, missing values left out
        *([1, 1, 1], [2, 2, 3, 2], [3, 3, 3, 3], [3, 3, 3, 3], [2, 2, 2, 2], [1, 2, 3, 4]),
        *([4, 4, 4, 4], [1, 1, 2, 1], [2, 2, 2, 2], [5, 5, 5], [1, 1], [3]),
    ]
    assert alpha(columns) == pytest.approx(0.849, abs=5e-4)
    votes = [vote("ann", "1", tone=1), vote("bob", "1", tone=1), vote("cec", "2", tone=-1)]
    assert agreement(votes) == {ALL: None, "tone": None}
    both = [*votes, vote("ann", "2", tone=-1)]
    assert agreement(both) == {ALL: 1.0, "tone": 1.0}


def test_agreement_is_what_the_package_computes() -> None:
    krippendorff = pytest.importorskip("krippendorff")
    table = [[1, 0, -1, -1, NONE, 1], [1, 1, -1, 0, 0, NONE], [NONE, 1, -1, -1, -1, 1]]
    units = [[v for v in column if v == v] for column in zip(*table, strict=True)]
    expected = krippendorff.alpha(reliability_data=table, level_of_measurement="interval")
    assert alpha(units) == pytest.approx(expected)


def test_results_are_of_the_replies_that_are_voted_on(place: Place, pack: Pack) -> None:
    """Votes on other weights stay in the CSV and are not mixed in."""
    voting = Voting(place)
    for cookie in (ANN, BOB):
        shown = voting.next(cookie)
        voting.cast(cookie, shown.state, answered(shown, "mpd"))
    said, rows = _shown(place)
    assert said.startswith("2 votes by 2 raters.")
    assert {row[0] for row in rows} == {"mpd"}
    write_run(folder() / pack.spec.name / "newer", pack, mark="!")
    said, rows = _shown(place)
    assert "0 votes by 0 raters. 2 more" in said
    assert rows == []
    assert len(place.votes().csv().splitlines()) == 3


def test_ballots_of_another_pack_are_refused(place: Place, tiny_pack_dir: Path) -> None:
    with pytest.raises(MPDError, match="a run of the pack 'smollm2-135m', not of this one"):
        Ballots.read(folder() / place.pack.spec.name / "evaluation", load_pack(tiny_pack_dir))
