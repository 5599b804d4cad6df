"""Experts and reward models on a tiny base: what is learned and kept, and what a kill costs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from mpd_core.cli import main
from mpd_core.errors import PackError
from mpd_core.models.adapters import WEIGHTS_FILE
from mpd_core.packs import Pack, load_pack
from mpd_core.training import data, measures
from mpd_core.training.experts import expert_folder, train_experts
from mpd_core.training.head import _score
from mpd_core.training.recipe import PoleRecipe, load_recipe
from mpd_core.training.rewards import reward_folder, train_rewards
from mpd_core.training.scoring import RewardModels, Rewards
from mpd_core.training.setup import RECORD, Setup
from mpd_core.training.stages import install
from mpd_core.training.trainer import CHECKPOINTS, METRICS
from tests.training_fixtures import write_training_pack


@pytest.fixture
def pack(tiny_base: Path, tmp_path: Path) -> Pack:
    return write_training_pack(tmp_path, tiny_base, adapters=False)


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]


def test_pairs_differ_in_their_pole(pack: Pack) -> None:
    """An expert's pairs take an opposite and the neutral answer in turns; a reward's also codes."""
    rows = data.load_styles(pack.folder / "styles.jsonl").split("train")
    up = pack.space.poles[0]
    pairs = data.preference_pairs(rows, pack.space, up)
    assert [pair.kind for pair in pairs] == ["single", "neutral"] * (len(rows) // 2)
    assert all("cat" in pair.chosen and "cat" not in pair.rejected for pair in pairs)
    whole = [p for p in data.reward_pairs(rows, pack.space, up) if p.kind == "whole"]
    assert len(whole) == len(rows)
    assert all("cat" in p.chosen and "mat" in p.rejected for p in whole)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "styles.jsonl:1: not a row"),
        ('{"id": "1", "split": "dev", "prompt": "x", "answers": {"up0": "y"}}', "split 'dev': use"),
        ('{"id": "1", "split": "train", "prompt": "x", "answers": {"up0": ""}}', "must be text"),
    ],
)
def test_bad_data_names_the_line(tmp_path: Path, line: str, complaint: str) -> None:
    (tmp_path / "styles.jsonl").write_text(line + "\n")
    with pytest.raises(PackError, match=complaint):
        data.load_styles(tmp_path / "styles.jsonl")


def test_a_recipe_names_its_wrong_key(pack: Pack, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = pack.folder / "train.toml"
    recipe.write_text(recipe.read_text().replace("[sft]", "[sft]\nspeed = 2"))
    assert main(["train", "experts", "--pack", str(pack.folder)]) == 2
    assert "sft.speed: unknown key" in capsys.readouterr().err


def test_experts_learn_their_style_and_to_stop(pack: Pack, tmp_path: Path) -> None:
    """Only upper layers change, the end-of-turn token is learned, and the record says from what."""
    setup = Setup.open(pack, tmp_path / "out")
    train_experts(setup, setup.pack.space.poles[:1], resume=False)
    folder = tmp_path / "out" / "experts" / "up0"
    assert any("loss" in entry for entry in metrics(folder / "sft"))
    assert (folder / "sft" / "curves.html").read_text().count("<svg") >= 2
    record = json.loads((folder / "preference" / RECORD).read_text())
    assert record["data_sha256"] == setup.styles.sha256
    assert record["recipe"]["sft"]["lr"] == 1e-2
    tensors = load_file(expert_folder(setup, pack.space.poles[0]) / WEIGHTS_FILE)
    assert all(".layers.1." in name and t.dtype == torch.float16 for name, t in tensors.items())
    assert any(t.abs().max() > 0 for name, t in tensors.items() if "lora_B" in name)
    example = next(iter(_sft_rows(setup)))
    assert example["labels"][-1] == setup.tokenizer.eos_token_id
    assert setup.tokenizer.pad_token_id != setup.tokenizer.eos_token_id


def _sft_rows(setup: Setup) -> list[dict[str, list[int]]]:
    from mpd_core.training.experts import _sft_trainer

    trainer = _sft_trainer(setup, setup.pack.space.poles[0], setup.out / "look")
    return list(trainer.train_dataset)


def test_the_trunk_changes_nothing(pack: Pack, tmp_path: Path) -> None:
    """With its lower layer as an embedding that remembers, the model says what it said before."""
    setup = Setup.open(pack, tmp_path / "out")
    pad = setup.tokenizer.pad_token_id
    ids = torch.tensor([[5, 6, 7, 8], [5, 6, pad, pad]])
    with torch.no_grad():
        plain = AutoModelForCausalLM.from_pretrained(setup.base)(ids).logits
        for _ in range(2):  # computed, then remembered
            shared = setup.bare(setup.recipe.lora)(ids).logits
            torch.testing.assert_close(shared[0], plain[0], atol=0.05, rtol=0.02)
            torch.testing.assert_close(shared[1, :2], plain[1, :2], atol=0.05, rtol=0.02)


def _classifier(setup: Setup, folder: Path) -> Callable[[str, str], float]:
    """The same reward model as transformers and PEFT run it."""
    base = AutoModelForSequenceClassification.from_pretrained(setup.base, num_labels=1)
    model = PeftModel.from_pretrained(base, folder).eval()
    head = load_file(folder / "head.safetensors")["weight"]

    def score(prompt: str, reply: str) -> float:
        text = setup.prompt(prompt) + reply + setup.end_of_turn
        tokens = setup.tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            hidden = model.get_base_model().model(tokens).last_hidden_state
        return float(hidden[0, -1] @ head[0])

    return score


def test_rewards_prefer_their_style(tiny_base: Path, tmp_path: Path) -> None:
    """In single styles and in whole preferences; as rows of one base, and as PEFT says."""
    pack = write_training_pack(tmp_path, tiny_base, adapters=False, epochs=30)
    setup = Setup.open(pack, tmp_path / "out")
    poles = setup.pack.space.poles[:2]
    train_rewards(setup, poles, resume=False)
    folders = {pole.name: reward_folder(setup, pole) for pole in poles}
    models = Rewards(RewardModels(setup, folders), {"up1": measures.MeasureReward("-words")})
    for pole in poles:
        pairs = data.reward_pairs(setup.styles.split("train"), setup.pack.space, pole)
        prompts = [pair.prompt for pair in pairs]
        score = models.reward(pole.name)
        chosen = score(prompts, [pair.chosen for pair in pairs])
        rejected = score(prompts, [pair.rejected for pair in pairs])
        assert all(a > b for a, b in zip(chosen, rejected, strict=True))
    oracle = _classifier(setup, reward_folder(setup, poles[1]))
    assert oracle("explain 3", "the mat 3") == pytest.approx(
        models.reward("down0")(["explain 3"], ["the mat 3"])[0],
        rel=0.1,
        abs=0.1,  # bf16 on CPUs that have it
    )
    both = models.score(["explain 3"] * 2, ["the cat 3", "the mat 3"], [("up0", "down0")] * 2)
    alone = models.score(["explain 3"], ["the mat 3"], [("down0",)])
    mixed = models.score(["explain 3"], ["the cat 3"], [("up0", "up1")])
    assert mixed == [{"up0": pytest.approx(both[0]["up0"], abs=1e-4), "up1": -3.0}]
    assert alone[0]["down0"] == pytest.approx(both[1]["down0"], abs=1e-4)


SCRIPT = """
import sys
from mpd_core.cli import main
sys.exit(main(["train", "experts", "--pack", sys.argv[1], "--pole", "up0", "--out", sys.argv[2],
               "--resume"]))
"""


def run_training(pack: Pack, out: Path, *, kill_at: Path | None = None) -> None:
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, str(pack.folder), str(out)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    if kill_at is None:
        assert process.wait(timeout=200) == 0
        return
    while not list(kill_at.glob("checkpoint-*/trainer_state.json")) and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_a_killed_training_resumes_to_the_same_weights(tiny_base: Path, tmp_path: Path) -> None:
    """Killed after its first checkpoint, then resumed: the weights and log of an unbroken run."""
    pack = write_training_pack(tmp_path, tiny_base, adapters=False, epochs=6)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run_training(pack, whole)
    stage = Path("experts") / "up0" / "sft"
    run_training(pack, broken, kill_at=broken / stage / CHECKPOINTS)
    assert not (broken / "experts" / "up0" / "preference" / RECORD).exists()
    run_training(pack, broken)
    for name in ("sft", "preference"):
        folders = [out / "experts" / "up0" / name for out in (whole, broken)]
        one, other = (load_file(folder / "adapter" / WEIGHTS_FILE) for folder in folders)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
        losses = [[e["loss"] for e in metrics(f) if "loss" in e] for f in folders]
        assert losses[0] == losses[1]


def test_install_writes_a_pack_that_refuses_tampering(pack: Pack, tmp_path: Path) -> None:
    setup = Setup.open(pack, tmp_path / "out")
    train_experts(setup, setup.pack.space.poles, resume=False)
    train_rewards(setup, setup.pack.space.poles, resume=False)
    install(setup, pack.folder)
    trained = load_pack(pack.folder)
    assert set(trained.spec.experts.adapters) == {"up0", "down0", "up1", "down1"}
    assert trained.spec.experts.prompt == "plain"
    file = pack.folder / "rewards" / "up0" / "head.safetensors"
    save_file({"weight": load_file(file)["weight"] + 1}, file)
    with pytest.raises(PackError, match=r"rewards\.up0\.head: .* another SHA-256"):
        load_pack(pack.folder)


def test_measures() -> None:
    assert measures.loops("we go on and on. " * 4)
    assert not measures.loops("we go on and on. " * 3)
    assert measures.grade("The cat sat. It was good.") < measures.grade(
        "Photosynthetic catabolism proceeds enzymatically throughout senescence."
    )
    assert measures.rare_share("chlorophyll and phyllobilin") == pytest.approx(2 / 3)
    assert measures.sentiment("I love it, great!") > 0 > measures.sentiment("You idiot, awful.")
    assert measures.signed("-words")("one two") == -2.0


def test_the_end_of_a_turn_can_weigh_more() -> None:
    """Logits are the states: token 0 has weight 3, the prompt none; a weighted mean by hand."""
    hidden = torch.tensor([[[2.0, 1.0], [0.0, 1.0], [9.0, 0.0]]])
    labels = torch.tensor([[0, 1, -100]])
    said = hidden.log_softmax(-1)
    expected = -(3 * said[0, 0, 0] + said[0, 1, 1]) / 4
    torch.testing.assert_close(_score(torch.nn.Identity(), hidden, labels, {0: 3.0}).loss, expected)


def test_a_pole_may_be_trained_otherwise(pack: Pack) -> None:
    recipe = load_recipe(pack)
    told = {"up0": PoleRecipe(preference=False, end_weight=3.0)}
    recipe = recipe.model_copy(update={"poles": told})
    assert recipe.preference_of("up0") is None
    assert recipe.sft_of("up0").end_weight == 3.0
    assert recipe.preference_of("down0") == recipe.preference
    assert recipe.sft_of("down0") == recipe.sft
