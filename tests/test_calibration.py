"""Reward models that learn from readers' verdicts on replies."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mpd_core.errors import PackError
from mpd_core.packs import load_pack
from mpd_core.training.context import TrainingContext
from mpd_core.training.data import load_verdicts
from mpd_core.training.export import write_pack
from mpd_core.training.recipe import VerdictSpec
from mpd_core.training.results import ADAPTER, HEAD
from mpd_core.training.scoring.calibration import FITTED, calibrate, fit_head
from mpd_core.training.scoring.reward_models import RewardModels
from tests import tiny
from tests.training_fixtures import write_training_pack

REPLIES = ("the cat sat", "a dog ran off", "on the mat", "it was red")


def row(prompt: str, reply: str, shown: str) -> dict[str, object]:
    return {"prompt": prompt, "preference": "AB", "reply": reply, "shown": shown, "quality": 3}


def written(file: Path, *rows: dict[str, object]) -> Path:
    file.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return file


@pytest.fixture
def setup(tiny_base: Path, tmp_path: Path) -> TrainingContext:
    """Reward models that say anything, and readers who name up0 and down1 in some replies."""
    pack = write_training_pack(tmp_path / "pack", tiny_base, adapters=False)
    context = TrainingContext.open(pack, tmp_path / "out")
    tiny.save_adapter(tiny_base, context.out / "rewards" / ADAPTER, rank=2, seed=0, first_layer=1)
    tiny.save_head(context.out / "rewards" / ADAPTER / HEAD, hidden=64, poles=4)
    rows = [
        row(f"explain {k}", reply, shown)
        for k in range(10)
        for reply, shown in zip(REPLIES, ("AB", "-B", "A-", "BA"), strict=True)
    ]
    file = written(tmp_path / "verdicts.jsonl", *rows)
    context.recipe = context.recipe.model_copy(
        update={"verdicts": VerdictSpec(file=file, ridge=0.01)}
    )
    return context


def test_readers_poles_score_above_zero(setup: TrainingContext, tmp_path: Path) -> None:
    """On prompts and replies as they saw; the installed pack says the same."""
    told: list[str] = []
    calibrate(setup, told.append, resume=False)
    names = [pole.name for pole in setup.pack.space.poles]
    folder = setup.out / "rewards" / ADAPTER
    asked = [("explain 3", reply, names) for reply in REPLIES]
    found = RewardModels(setup, folder).score(asked)
    signs = [{name for name, score in scores.items() if score > 0} for scores in found]
    assert signs == [{"up0", "down1"}, {"down1"}, {"up0"}, {"down0", "up1"}]
    figures = json.loads((folder / FITTED).read_text(encoding="utf-8"))["figures"]
    assert figures["after"]["dim0"]["agrees"] > figures["before"]["dim0"]["agrees"]
    assert figures["after"]["dim0"]["ranks"] > 0.95
    assert json.dumps(figures["before"]) in told[0]
    assert json.dumps(figures["after"]) in told[1]
    for pole in names:
        tiny.save_adapter(
            setup.base, setup.out / "experts" / pole / ADAPTER, rank=2, seed=0, first_layer=1
        )
    pack = write_pack(setup, tmp_path / "installed")
    there = RewardModels(setup, pack.folder / "rewards")
    assert there.score(asked) == found
    load_pack(pack.folder).verify_files()


def test_figures_are_of_the_poles_that_were_asked_for(
    setup: TrainingContext, tmp_path: Path
) -> None:
    """Readers saw down1 in half of the replies, and up0 in all: then nothing can be ranked."""
    rows = [row(f"explain {k}", REPLIES[k % 2], ("A-", "AB")[k % 2]) for k in range(10)]
    file = written(tmp_path / "verdicts.jsonl", *rows)
    setup.recipe = setup.recipe.model_copy(update={"verdicts": VerdictSpec(file=file, ridge=0.01)})
    calibrate(setup, lambda _: None, resume=False)
    record = setup.out / "rewards" / ADAPTER / FITTED
    after = json.loads(record.read_text(encoding="utf-8"))["figures"]["after"]
    assert set(after["dim0"]) == {"agrees"}
    assert after["dim1"] == {"agrees": 1.0, "ranks": 1.0}


def test_a_fit_begins_at_what_pairs_taught(setup: TrainingContext, tmp_path: Path) -> None:
    """So one that is made again is the same, here or from the pack that it was installed in; a
    resumed one is kept, unless verdicts or ridge are others."""
    head = setup.out / "rewards" / ADAPTER / HEAD
    calibrate(setup, lambda _: None, resume=True)
    once, told = head.read_bytes(), list[str]()
    calibrate(setup, told.append, resume=True)
    assert not told
    calibrate(setup, told.append, resume=False)
    assert told
    assert head.read_bytes() == once
    elsewhere = replace(setup, out=tmp_path / "elsewhere")
    (elsewhere.out / "rewards").mkdir(parents=True)
    shutil.copytree(head.parent, elsewhere.out / "rewards" / ADAPTER)
    (elsewhere.out / "rewards" / ADAPTER / FITTED).unlink()
    calibrate(elsewhere, lambda _: None, resume=False)
    assert (elsewhere.out / "rewards" / ADAPTER / HEAD).read_bytes() == once
    assert setup.recipe.verdicts
    other = setup.recipe.verdicts.model_copy(update={"ridge": 1000.0})
    setup.recipe = setup.recipe.model_copy(update={"verdicts": other})
    calibrate(setup, lambda _: None, resume=True)
    assert head.read_bytes() != once


def test_dimensions_that_nobody_asked_for_have_no_figures(
    setup: TrainingContext, tmp_path: Path
) -> None:
    rows = [row(f"explain {k}", REPLIES[k % 2], "A-") | {"preference": "A-"} for k in range(4)]
    file = written(tmp_path / "verdicts.jsonl", *rows)
    setup.recipe = setup.recipe.model_copy(update={"verdicts": VerdictSpec(file=file)})
    calibrate(setup, lambda _: None, resume=False)
    record = setup.out / "rewards" / ADAPTER / FITTED
    assert set(json.loads(record.read_text(encoding="utf-8"))["figures"]["after"]) == {"dim0"}


def test_one_prompt_is_not_enough(setup: TrainingContext, tmp_path: Path) -> None:
    file = written(tmp_path / "verdicts.jsonl", row("p", "r", "AB"), row("p", "s", "AB"))
    setup.recipe = setup.recipe.model_copy(update={"verdicts": VerdictSpec(file=file)})
    with pytest.raises(PackError, match="at least two prompts"):
        calibrate(setup, lambda _: None, resume=False)


def test_without_verdicts_nothing_changes(setup: TrainingContext) -> None:
    setup.recipe = setup.recipe.model_copy(update={"verdicts": None})
    head = setup.out / "rewards" / ADAPTER / HEAD
    before = head.read_bytes()
    calibrate(setup, lambda _: None, resume=False)
    assert head.read_bytes() == before
    assert not (head.parent / FITTED).exists()


def test_verdicts_need_reward_models(setup: TrainingContext, tmp_path: Path) -> None:
    with pytest.raises(PackError, match="run train rewards first"):
        calibrate(replace(setup, out=tmp_path / "empty"), lambda _: None, resume=False)


def test_the_ridge_holds_the_head() -> None:
    """Without evidence it stays; with one number for all, the bias takes what they share."""
    torch.manual_seed(0)
    states = torch.cat([torch.randn(200, 3), torch.ones(200, 1)], dim=1).double()
    truth = torch.tensor([[2.0, -1.0, 0.0, 0.5]]).double()
    named = (states @ truth.T > 0).double()
    start = torch.tensor([[0.0, 1.0, 1.0, -3.0]]).double()
    held = fit_head(states, named, start, 1e9)
    assert held[0, :3].tolist() == pytest.approx(start[0, :3].tolist(), abs=1e-5)
    assert float(torch.sigmoid(states @ held[0]).mean()) == pytest.approx(float(named.mean()))
    free = fit_head(states, named, start, 1e-3)
    assert ((states @ free.T > 0).double() == named).double().mean() > 0.97


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("nothing", "not a reply with what a reader saw"),
        (json.dumps(row("p", "r", "AC")), "'C' is no pole of dimension 'dim1'"),
        (json.dumps(row("p", "r", "A")), "not a reply with what a reader saw"),
        (json.dumps(row("p", " ", "AB")), "must be text"),
        (json.dumps({"prompt": "p"}), "not a reply with what a reader saw"),
    ],
)
def test_unreadable_verdicts_name_their_line(
    setup: TrainingContext, tmp_path: Path, line: str, problem: str
) -> None:
    file = written(tmp_path / "some.jsonl", row("p", "r", "A-"))
    file.write_text(file.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    with pytest.raises(PackError, match=f"some.jsonl:2: .*{problem}"):
        load_verdicts(file, setup.pack.space)


def test_missing_verdicts_are_named(setup: TrainingContext, tmp_path: Path) -> None:
    with pytest.raises(PackError, match=r"verdicts\.file: .*none\.jsonl cannot be read"):
        load_verdicts(tmp_path / "none.jsonl", setup.pack.space)
