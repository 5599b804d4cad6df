"""Blind readers' verdicts: sheets that tell nothing, lines that are refused, tables."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mpd_core.cli import main
from mpd_core.errors import RequestError
from mpd_core.evaluation.judges import judge_named
from mpd_core.evaluation.judging import pairs_of
from mpd_core.evaluation.readers import JUDGE, Readers, bring
from mpd_core.evaluation.readme import results
from mpd_core.evaluation.record import load_run, read_rows, replies_of
from mpd_core.evaluation.report import report
from mpd_core.evaluation.sheets import labels
from mpd_core.evaluation.verdicts import judged, scorer_of
from mpd_core.method.preferences import Dimension, Pole, PreferenceSpace
from mpd_core.packs import load_pack
from tests.vote_fixtures import METHODS, write_run

PACK = load_pack(None)
Line = dict[str, Any]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_run(tmp_path / "run", PACK)
    return tmp_path / "run"


def evaluate(*arguments: object) -> int:
    return main(["evaluate", *map(str, arguments)])


def sheets(run: Path, name: str, *options: object) -> Path:
    folder = run.parent / name
    assert evaluate("sheets", folder, "--out", run, *options) == 0
    return folder


def items(file: Path) -> Iterator[tuple[str, str]]:
    for block in file.read_text().split("=== ")[1:]:
        name, _, text = block.partition("\n")
        yield name, text


Judge = Callable[[str, str], Line]


def read(folder: Path, single: Judge, pair: Judge) -> None:
    """Write verdicts on all items as readers do, by what the key says of each."""
    key = json.loads((folder / "key.json").read_text())
    for kind, judge in (("singles", single), ("pairs", pair)):
        for file in folder.glob(f"{kind}_*.txt"):
            said = [{"id": name, **judge(key[name], text)} for name, text in items(file)]
            lines = "".join(json.dumps(line) + "\n" for line in said)
            (folder / f"out_{file.stem}.jsonl").write_text(lines)


def right(source: str, text: str) -> Line:
    """MPD and the written answers show what was asked for, the others nothing."""
    del text
    method, code = source.split("|")
    good = method in ("mpd", "written")
    return {**dict(zip("elt", code if good else "NNN", strict=True)), "q": 4 if good else 2}


def for_mpd(source: str, text: str) -> Line:
    """In two dimensions; it is the reply that says so."""
    del source
    mpd = "1" if "REPLY 1: mpd" in text else "2"
    return {"1": mpd, "2": mpd, "3": "T", "g": mpd}


def brought(run: Path, *folders: Path) -> int:
    named = [option for folder in folders for option in ("--verdicts", folder)]
    return evaluate("judge", "--judge", "readers", "--out", run, *named)


def test_sheets_deal_every_item_once_and_tell_nothing(run: Path) -> None:
    folder = sheets(run, "round", "--readers", 2, "--known", 1, "--seed", 3)
    key = json.loads((folder / "key.json").read_text())
    dealt = [name for file in folder.glob("*_?.txt") for name, _ in items(file)]
    assert sorted(dealt) == sorted(key)
    assert sum(name[0] == "s" for name in key) == 2 * 2 * 3 + 8
    sources = sorted(key[name].rsplit("|", 1)[0] for name in key if name[0] == "p")
    assert sources == sorted([f"{m}|{c}" for m in METHODS[1:] for c in ("AAA", "BBB")] * 2)
    assert {key[name][-1] for name in key if name[0] == "p"} == {"0", "1"}
    shown = dict(items(folder / "pairs_0.txt"))
    for name, text in shown.items():
        assert text.startswith("PROMPT: ")
        assert key[name].split("|")[0] not in text  # "uniform" or "soup"
        assert ("REPLY 1: mpd" in text) == (key[name][-1] == "0")
    rubric = (folder / "RUBRIC.md").read_text()
    for dimension in PACK.space.dimensions:
        assert all(pole.instruction in rubric for pole in dimension.poles)
    assert evaluate("sheets", folder, "--out", run) == 2  # its key may be in use


def test_verdicts_of_readers_stand_in_every_table(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = sheets(run, "round", "--readers", 2, "--known", 1)
    read(folder, right, for_mpd)
    assert brought(run, folder) == 0
    assert "20 replies and 8 pairs" in capsys.readouterr().out
    files = sorted(run.glob("*-readers.jsonl"))
    before = [file.read_bytes() for file in files]
    assert len(files) == 2
    assert brought(run, folder, folder) == 0  # again, and twice
    assert [file.read_bytes() for file in files] == before
    found = report(PACK, run, ())
    shown = {m: found["identified"][m]["readers"] for m in METHODS}
    assert (shown["mpd"]["mean"], shown["mpd"]["whole"]) == (1.0, 1.0)
    assert (shown["soup"]["mean"], shown["soup"]["whole"]) == (0.5, 0.0)
    judge = found["judges"]["readers"]
    assert judge["flip_rate"] is None
    assert judge["kind"].startswith("2 blind readers, by hand: 20 single replies and 8 pairs")
    assert "expertise 1.00 of 8" in judge["kind"]
    for row in judge["meetings"]:
        assert (row["first"], row["wins"], row["ties"], row["losses"]) == ("mpd", 4, 0, 0)
        assert row["whole"]["wins"] == 4
        assert row["by_dimension"]["tone"]["half_rate"] == 0.5
    assert {row["second"] for row in judge["meetings"]} == {"uniform", "soup"}
    assert found["readers"]["quality"]["mpd"] == {"mean": 4.0, "replies": 4}
    assert found["readers"]["quality"]["soup"] == {"mean": 2.0, "replies": 4}
    text, page = ((run / f"report.{end}").read_text() for end in ("md", "html"))
    whole = results({"x": found}, "", "t")
    for said in (text, whole):
        assert "| mpd | 4.00 | 4 |" in said
        assert "| mpd | expertise | 🟩 **100.0** | 🟩 **100.0** |" in said
    assert "| mpd | soup | 4/0/0 | 1.00 | 0.12 |" in text
    assert "Both orders" not in text
    assert "Better as a whole:" in page
    assert '<th scope="row">mpd</th><td>4.00</td><td>4</td>' in page


def test_each_reading_counts_and_a_draw_is_neither(run: Path) -> None:
    """Two rounds disagree on a reply and on a pair; a third decides."""
    names = ("one", "two", "three")
    folders = [sheets(run, name, "--readers", 2, "--known", 0) for name in names]
    read(folders[0], right, for_mpd)
    read(folders[1], lambda *_: dict.fromkeys("elt", "B") | {"q": 1}, against)
    read(folders[2], right, for_mpd)
    replies = replies_of(run, load_run(run))
    mpd = next(row for row in replies if row["method"] == "mpd" and row["code"] == "AAA")
    pairs = list(pairs_of(PACK.space, replies, METHODS))
    for count, pole, verdict in ((1, "elementary", 1), (2, None, 0), (3, "elementary", 1)):
        bring(readers_of(run), folders[:count], run)
        said = scorer_of(JUDGE, PACK.space, run)(mpd["prompt"], mpd["text"])
        assert said["expertise"] == pole
        found = judged(JUDGE, pairs, run)
        assert len(found) == 8
        assert {j.verdicts["expertise"] for j in found} == {j.whole for j in found} == {verdict}
        assert not any(j.flipped for j in found)


def against(source: str, text: str) -> Line:
    turned = {"1": "2", "2": "1", "T": "T"}
    return {name: turned[said] for name, said in for_mpd(source, text).items()}


GOOD = {"e": "A", "l": "N", "t": "B", "q": 3}


WRONG: list[tuple[str | Line, str]] = [
    ("{", "not a verdict"),
    ("[" * 100_000, "not a verdict"),
    ("[1]", "not a verdict"),
    ('{"q": 3}', "not a verdict"),
    ('{"id": "s0000", "e": "A", "e": "B", "l": "N", "t": "B", "q": 3}', "each name once"),
    ({"id": "s9999", **GOOD}, "'s9999' is no item of singles"),
    ({"id": "p0000", **GOOD}, "'p0000' is no item of singles"),
    ({"id": ["s0000"], **GOOD}, "is no item of singles"),
    ({"id": "s0001", **GOOD}, "a second verdict on s0001"),
    ({"id": "s0000", **GOOD, "x": 1}, "give id, e, l, q, t and nothing else"),
    ({"id": "s0000", "e": "A", "l": "N", "q": 3}, "give id, e, l, q, t and nothing else"),
    ({"id": "s0000", **GOOD, "e": "C"}, "'e' must be A, B, N"),
    ({"id": "s0000", **GOOD, "l": None}, "'l' must be A, B, N"),
    ({"id": "s0000", **GOOD, "l": ["A"]}, "'l' must be A, B, N"),
    ({"id": "s0000", **GOOD, "q": 6}, "'q' must be 1 to 5"),
    ({"id": "s0000", **GOOD, "q": True}, "'q' must be 1 to 5"),
    ({"id": "s0000", **GOOD, "q": "3"}, "'q' must be 1 to 5"),
]


def test_a_line_that_is_no_verdict_is_named_and_nothing_is_stored(run: Path) -> None:
    folder, readers = sheets(run, "round", "--readers", 1, "--known", 0), readers_of(run)
    read(folder, right, for_mpd)
    file = folder / "out_singles_0.jsonl"
    lines = [row for row in file.read_text().splitlines() if "s0000" not in row]
    for line, said in WRONG:
        wrong = line if isinstance(line, str) else json.dumps(line)
        file.write_text("\n".join([*lines, "", wrong]) + "\n")
        with pytest.raises(RequestError, match=re.escape(said)) as error:
            bring(readers, [folder], run)
        assert f"out_singles_0.jsonl:{len(lines) + 2}: " in str(error.value)
        assert "\n" not in str(error.value)
        assert not list(run.glob("*-readers.jsonl"))


def readers_of(run: Path) -> Readers:
    return Readers(PACK.space, replies_of(run, load_run(run)), METHODS, ())


def changed(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def test_sheets_that_are_not_of_the_run_are_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another text, pair or key; and a verdict that has changed since it was stored."""
    made, readers = sheets(run, "made", "--readers", 1, "--known", 0), readers_of(run)
    read(made, right, for_mpd)
    cases: list[tuple[str, Callable[[Path], None], str]] = [
        (
            "text",
            lambda f: changed(f / "singles_0.txt", "REPLY: mpd", "REPLY: x"),
            "no such reply",
        ),
        (
            "pair",
            lambda f: changed(f / "pairs_0.txt", "REPLY 1: ", "REPLY 1: x"),
            "such replies by",
        ),
        ("value", lambda f: changed(f / "out_pairs_0.jsonl", '"T"', '"t"'), "'3' must be 1, 2, T"),
        ("field", lambda f: changed(f / "out_pairs_0.jsonl", '"g"', '"h"'), "give id, 1, 2, 3, g"),
        ("flip", lambda f: changed(f / "key.json", "|1", "|2"), "such replies by"),
        ("parts", lambda f: changed(f / "key.json", "mpd|", "mpd|AAA|"), "no such reply"),
        ("who", lambda f: changed(f / "key.json", "mpd|AAA", "mxd|AAA"), "no such reply by 'mxd'"),
        ("key", lambda f: (f / "key.json").write_text("[]") and None, "not a key"),
        ("gone", lambda f: (f / "key.json").unlink(), "key.json: cannot be read"),
        ("twice", lambda f: changed(f / "singles_0.txt", "=== s0001", "=== s0000"), "stands twice"),
        ("none", lambda f: [o.unlink() for o in f.glob("out_*")] and None, "no line in out_"),
    ]
    for name, spoil, said in cases:
        folder = tmp_path / name
        folder.mkdir()
        for file in made.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        spoil(folder)
        with pytest.raises(RequestError, match=re.escape(said)) as error:
            bring(readers, [folder], run)
        assert "\n" not in str(error.value)
        assert not list(run.glob("*-readers.jsonl")), name
    assert brought(run, made) == 0
    stored = list(read_rows(run / "singles-readers.jsonl"))
    changed(made / "out_singles_0.jsonl", '"q": 4', '"q": 3')
    assert brought(run, made) == 2
    assert "another verdict on it is in singles-readers.jsonl" in capsys.readouterr().err
    assert list(read_rows(run / "singles-readers.jsonl")) == stored
    assert evaluate("judge", "--judge", "readers", "--out", run) == 2
    assert "needs --verdicts" in capsys.readouterr().err
    with pytest.raises(RequestError, match="Readers judge by hand"):
        judge_named("readers", PACK)


def test_dimensions_have_initials_only_where_these_tell_them_apart() -> None:
    def space(*names: str) -> PreferenceSpace:
        poles = (Pole("a", "A."), Pole("b", "B."))
        return PreferenceSpace(tuple(Dimension(name, poles) for name in names))

    assert labels(space("expertise", "tone")) == ["e", "t"]
    assert labels(space("tone", "truth")) == ["tone", "truth"]
    assert labels(space("quiet", "tone")) == ["quiet", "tone"]  # q is the quality
