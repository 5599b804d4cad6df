"""The training commands from end to end on a tiny base, and what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mpd_core.cli import main
from mpd_core.engine.plan import plan_request
from mpd_core.errors import RequestError
from mpd_core.evaluation.held_out.identification import correlation, sign_flip, wins
from mpd_core.method.static import grid
from mpd_core.packs import Pack, load_pack
from mpd_core.training.context import TrainingContext
from mpd_core.training.pcm.policy import Policy
from tests.training_fixtures import add_dimension, history, write_training_pack


def train(*arguments: str) -> int:
    return main(["train", *arguments])


@pytest.fixture(scope="module")
def trained(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a pack after train all and train install."""
    folder = tmp_path_factory.mktemp("pack")
    write_training_pack(folder, tiny_base, adapters=False)
    options = ["--pack", str(folder), "--out", str(folder / "out")]
    assert train("all", *options) == 0
    assert train("install", *options) == 0
    return folder


def test_everything_is_trained_and_installed(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Six adapters, rewards, a PCM and static weights; then held-out figures and a card."""
    pack = load_pack(trained)
    assert pack.trained
    assert len(pack.spec.experts.adapters) == 4
    assert pack.spec.experts.anchor is not None
    assert pack.spec.rewards is not None
    mode = (trained / "pack.toml").stat().st_mode  # who may read that may read the weights, too
    assert {file.stat().st_mode for file in trained.glob("[erp]*/**/*.safetensors")} == {mode}
    assert set(pack.spec.static) == {"AA", "AB", "BA", "BB"}
    options = ["--pack", str(trained), "--out", str(trained / "out")]
    assert train("report", *options) == 2
    assert "report.json is missing: run train report --recompute" in capsys.readouterr().err
    assert train("report", *options, "--recompute") == 0
    said = capsys.readouterr().out
    for words in ("Reward models", "Experts against the base", "shows its pole", "disagreement"):
        assert words in said
    assert train("report", "--pack", str(trained), "--json") == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["mixtures"]["uniform"]["reward"] == pytest.approx(0.5)  # against itself
    table = figures["mixtures"]["identification"]
    assert {"mpd", "mpd@logit", "uniform", "expert:up0"} <= table.keys()
    assert table["mpd"].keys() == {"AA", "AB", "BA", "BB"}
    assert table["expert:up0"].keys() == {"AA", "AB"}
    assert 0 <= table["mpd"]["AA"]["dim0"]["reward"] <= 1
    assert figures["weights"]["mixtures"].items() < pack.hashes.items()
    assert not any("pcm" in name for name in figures["weights"]["experts"])
    assert figures["stale"] == []
    assert "shows its pole" in (trained / "README.md").read_text()


def test_a_run_records_what_it_was_made_from(trained: Path) -> None:
    """Recipe, data, pack and weights; and the PCM's log has a line an iteration."""
    folder = trained / "out" / "pcm" / "rebel-bradley_terry"
    record = json.loads((folder / "run.json").read_text())
    assert record["seed"] == 3
    assert len(record["data_sha256"]) == len(record["weights_sha256"]) == 64
    rows = history(folder)
    assert [row["step"] for row in rows] == [1.0, 2.0]
    assert rows[0]["entropy_before"] == pytest.approx(1.0)  # the zero head is exactly uniform


def test_a_new_dimension_needs_no_code(trained: Path, tmp_path: Path) -> None:
    """A table in pack.toml and answers: two experts, rewards anew, and two rows of the head."""
    old = load_pack(trained)
    folder = add_dimension(trained, tmp_path / "wider")
    options = ["--pack", str(folder), "--out", str(tmp_path / "out")]
    assert train("experts", *options, "--pole", "up2", "--pole", "down2") == 0
    assert train("rewards", *options) == 0
    setup = TrainingContext.open(load_pack(folder), tmp_path / "out")
    policy = Policy(setup)
    head = load_file(old.path(Path("pcm/head.safetensors")))
    torch.testing.assert_close(policy.head.linear.weight[:4], head["weight"])
    assert policy.head.linear.weight[4:].abs().max() == 0
    assert train("pcm", *options) == 0
    assert train("install", *options) == 0
    wider = load_pack(folder)
    assert len(wider.spec.experts.adapters) == 6
    assert load_file(wider.path(Path("rewards/head.safetensors")))["weight"].shape[0] == 6
    assert load_file(wider.path(Path("pcm/head.safetensors")))["weight"].shape[0] == 6


def test_dry_run_says_steps_tokens_and_time(
    tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_training_pack(tmp_path, tiny_base, adapters=True)
    assert train("all", "--pack", str(tmp_path), "--out", str(tmp_path / "o"), "--dry-run") == 0
    said = capsys.readouterr().err
    stages = ("what experts begin with: 3 steps", "up0: 3 steps", "reward models: 3 steps")
    for stage in (*stages, "references: up to ", "PCM: "):
        assert stage in said
    assert said.count("about ") == 9
    assert not (tmp_path / "o" / "experts").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["experts", "--pole", "sideways"], "Unknown pole 'sideways': use up0, down0, up1, down1"),
        (["report", "--recompute"], "The pack has no reward models: run train install first."),
        (["report", "--recompute", "--only", "x"], "Unknown part 'x': use rewards, experts"),
    ],
)
def test_mistakes_are_one_line(
    tiny_base: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    complaint: str,
) -> None:
    write_training_pack(tmp_path, tiny_base, adapters=True)
    assert train(*arguments, "--pack", str(tmp_path), "--out", str(tmp_path / "out")) == 2
    assert complaint in capsys.readouterr().err


def test_static_weights(tiny_base: Path, tmp_path: Path) -> None:
    """Any constant weights by name; the pack's own need a table."""
    pack: Pack = write_training_pack(tmp_path, tiny_base, adapters=True)
    plan = plan_request(pack, pack.space.parse("AB"), "static:0.25,0.75")
    assert plan.fixed == (0.25, 0.75)
    assert plan.pcm is None
    for method in ("static:1", "static:0.5,0.6", "static:a,b", "static:-0.5,1.5"):
        with pytest.raises(RequestError, match="give 2 weights from 0 to 1"):
            plan_request(pack, pack.space.parse("AB"), method)
    with pytest.raises(RequestError, match="Unknown method 'static'"):
        plan_request(pack, pack.space.parse("AB"), "static")
    points = list(grid(3, 3))
    assert len(points) == 10
    assert (1 / 3, 1 / 3, 1 / 3) in points
    assert (1.0, 0.0, 0.0) in points
    heard = list(grid(3, 10, least=0.2))
    assert len(heard) == 1 + 15  # 4 tenths among three, and uniform weights
    assert min(min(point) for point in heard) == pytest.approx(0.2)
    assert all(sum(point) == pytest.approx(1.0) for point in heard)


def test_paired_statistics() -> None:
    assert wins([1, 2, 3], [0, 2, 4]) == pytest.approx(0.5)
    assert sign_flip([0.1, 0.2, 0.15, 0.12, 0.2, 0.3, 0.1, 0.2, 0.1, 0.2]) < 0.01
    assert sign_flip([0.1, -0.1, 0.2, -0.2]) > 0.9
    assert correlation([1, 2, 3], [2, 4, 6]) == pytest.approx(1.0)
    assert correlation([1, 1], [2, 4]) == 0.0
