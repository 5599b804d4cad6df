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
from transformers import AutoModelForCausalLM

from mpd_core.cli import main
from mpd_core.errors import PackError
from mpd_core.evaluation.held_out.publish import install
from mpd_core.models.adapters import WEIGHTS_FILE
from mpd_core.packs import Pack, load_pack
from mpd_core.training import data, measures
from mpd_core.training.adapters.experts import answer_loss, expert_folder, train_experts
from mpd_core.training.adapters.rewards import reward_folder, train_rewards
from mpd_core.training.context import RECORD, TrainingContext
from mpd_core.training.results import CHECKPOINTS
from mpd_core.training.scoring.reward_models import RewardModels, Rewards
from tests.training_fixtures import history, training, write_training_pack


@pytest.fixture
def pack(tiny_base: Path, tmp_path: Path) -> Pack:
    return write_training_pack(tmp_path, tiny_base, adapters=False)


def test_an_expert_learns_its_pole_beside_every_combination_of_the_rest(pack: Pack) -> None:
    up, down = pack.space.poles[:2]
    assert data.pole_answers(pack.space, up) == ("up0", "AA", "AB")
    assert data.pole_answers(pack.space, down) == ("down0", "BA", "BB")
    assert data.common_answers(pack.space) == ("AA", "AB", "BA", "BB", "neutral")


def test_minimal_pairs_differ_in_exactly_one_letter() -> None:
    """Three dimensions: for each pole four pairs, the other two letters held and named."""
    space = load_pack("smollm2-135m").space
    codes = [preference.code for preference in space]
    pairs = data.comparisons(space, codes)
    assert len(pairs) == len(set(pairs)) == 6 * 4
    for pair in pairs:
        differ = [k for k in range(3) if pair.chosen[k] != pair.rejected[k]]
        assert len(differ) == 1
        dimension = space.dimensions[differ[0]]
        assert dimension.by_letter(pair.chosen[differ[0]]) == pair.pole
        assert pair.kind == pair.chosen[: differ[0]] + "-" + pair.chosen[differ[0] + 1 :]


def test_comparisons_are_of_answers_that_are_there(pack: Pack) -> None:
    found = data.comparisons(pack.space, ["up0", "down0", "neutral", "AA", "BA", "BB"])
    told = {(c.pole.name, c.chosen, c.rejected, c.kind) for c in found}
    assert told == {
        ("up0", "up0", "down0", "single"),
        ("down0", "down0", "up0", "single"),
        ("up0", "up0", "neutral", "neutral"),
        ("down0", "down0", "neutral", "neutral"),
        ("up0", "AA", "BA", "-A"),
        ("down0", "BA", "AA", "-A"),
        ("up1", "BA", "BB", "B-"),
        ("down1", "BB", "BA", "B-"),
    }


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


def test_experts_learn_their_style_and_to_stop(tiny_base: Path, tmp_path: Path) -> None:
    """Only upper layers change, all likelier than the base finds them: words, and the end."""
    setup = training(tmp_path, tiny_base, adapters=False, epochs=6)
    train_experts(setup, setup.pack.space.poles[:1], resume=False)
    folder = tmp_path / "out" / "experts" / "up0"
    assert (folder / "curves.html").read_text().count("<svg") >= 2
    record = json.loads((folder / RECORD).read_text())
    assert record["data_sha256"] == setup.styles.sha256
    assert record["recipe"]["sft"]["lr"] == 1e-2
    assert record["answers"] == ["up0", "AA", "AB"]
    tensors = load_file(expert_folder(setup, setup.pack.space.poles[0]) / WEIGHTS_FILE)
    assert all(".layers.1." in name and t.dtype == torch.float16 for name, t in tensors.items())
    row = setup.styles.split("valid")[0]
    own, other = (f"the {word} and friend {row.id}" for word in ("cat", "mat"))
    said = {who: _log_likelihood(setup, who, row.prompt) for who in (None, "anchor", "up0")}
    assert said["up0"](own) > said["anchor"](own) > said[None](own)
    gain = said["up0"](own) - said["anchor"](own)
    assert gain > said["up0"](other) - said["anchor"](other)
    assert said["up0"](own, end_only=True) > said[None](own, end_only=True)


def with_own_answers(folder: Path, base: Path, rows: list[dict[str, object]]) -> TrainingContext:
    """With ``data.experts`` of these rows."""
    folder.mkdir(exist_ok=True)
    (folder / "own.jsonl").write_text("\n".join(map(json.dumps, rows)))
    change = {"[data]": '[data]\nexperts = "own.jsonl"'}
    return training(folder, base, adapters=False, epochs=6, change=change)


def test_reward_models_learn_in_the_words_of_replies_too(tiny_base: Path, tmp_path: Path) -> None:
    """``data.experts``: what replies will sound like. Scores hold there, and lie around 0."""
    words = {"AA": "dog", "AB": "dog and friend", "BA": "tree", "BB": "tree and friend"}
    rows = [
        {
            "id": str(k),
            "split": split,
            "prompt": f"go {k}",
            "answers": {code: f"the {word}" for code, word in words.items()},
        }
        for k, split in enumerate(["train"] * 8 + ["valid"])
    ]
    both = with_own_answers(tmp_path / "both", tiny_base, rows)
    styles = training(tmp_path / "styles", tiny_base, adapters=False, epochs=6)
    scores = {}
    for name, setup in (("both", both), ("styles", styles)):
        train_rewards(setup, resume=False)
        models = RewardModels(setup, reward_folder(setup))
        texts = [f"the {word}" for word in words.values()]
        found = models.score([("go 9", text, ("up0", "down0")) for text in texts])
        scores[name] = [row["up0"] - row["down0"] for row in found]
        record = json.loads((setup.out / "rewards" / RECORD).read_text())
        assert record["taught_sha256"] == setup.taught.sha256
    assert min(scores["both"][:2]) > 0 > max(scores["both"][2:])
    assert not (min(scores["styles"][:2]) > 0 > max(scores["styles"][2:]))


def test_experts_learn_from_answers_of_their_own(tiny_base: Path, tmp_path: Path) -> None:
    """``data.experts``: whole preferences only, in other words than the rest of the training."""
    answers = {code: f"the {'dog' if code[0] == 'A' else 'mat'}" for code in ("AA", "AB", "BA")}
    rows = [
        {"id": str(k), "split": "train", "prompt": f"go {k}", "answers": answers} for k in "123"
    ]
    setup = with_own_answers(tmp_path, tiny_base, rows)
    train_experts(setup, setup.pack.space.poles[:1], resume=False)
    said = {who: _log_likelihood(setup, who, "go 9") for who in (None, "up0")}
    assert said["up0"]("the dog") > said[None]("the dog") + 1
    assert said["up0"]("the dog") > said["up0"]("the cat and friend")
    record = json.loads((tmp_path / "out" / "experts" / "up0" / RECORD).read_text())
    assert record["taught_sha256"] == setup.taught.sha256 != record["data_sha256"]


def _log_likelihood(setup: TrainingContext, name: str | None, prompt: str) -> Callable[..., float]:
    """ln p of a reply and its end, or of its end alone, as transformers and PEFT say."""
    model = AutoModelForCausalLM.from_pretrained(setup.base)
    if name:
        model = PeftModel.from_pretrained(model, setup.out / "experts" / name / "adapter")
    start = len(setup.ids(setup.prompt(prompt)))

    def said(reply: str, *, end_only: bool = False) -> float:
        ids = torch.tensor([setup.ids(setup.prompt(prompt) + reply + setup.end_of_turn)])
        with torch.no_grad():
            log_probs = model(ids).logits.log_softmax(-1)
        each = log_probs[0, :-1].gather(-1, ids[0, 1:, None])[start - 1 :, 0]
        return float(each[-1] if end_only else each.sum())

    return said


def test_packed_answers_are_what_separate_texts_are(pack: Pack, tmp_path: Path) -> None:
    """Side by side in one row, with other answers: the loss that each has on its own."""
    setup = TrainingContext.open(pack, tmp_path / "out")
    rows = setup.styles.split("train")[:3]
    model = setup.causal_lm(setup.recipe.lora)
    names = ("AA", "BB", "up1")
    with torch.no_grad():
        total, tokens = answer_loss(setup, model, rows, names)
        assert tokens == sum(
            len(setup.ids(text + setup.end_of_turn)) for row in rows for text in row.texts(names)
        )
    said = {row.prompt: _log_likelihood(setup, None, row.prompt) for row in rows}
    alone = -sum(said[row.prompt](text) for row in rows for text in row.texts(names))
    assert float(total) == pytest.approx(alone, rel=5e-3)  # bf16 on CPUs that have it


def test_the_trunk_changes_nothing(pack: Pack, tmp_path: Path) -> None:
    """With its lower layer as an embedding that remembers, the model says what it said before."""
    setup = TrainingContext.open(pack, tmp_path / "out")
    pad = setup.tokenizer.pad_token_id
    ids = torch.tensor([[5, 6, 7, 8], [5, 6, pad, pad]])
    with torch.no_grad():
        plain = AutoModelForCausalLM.from_pretrained(setup.base)(ids).logits
        for _ in range(2):  # computed, then remembered
            shared = setup.bare(setup.recipe.lora)(ids).logits
            torch.testing.assert_close(shared[0], plain[0], atol=0.05, rtol=0.02)
            torch.testing.assert_close(shared[1, :2], plain[1, :2], atol=0.05, rtol=0.02)


def _scores(setup: TrainingContext, folder: Path) -> Callable[[str, str], list[float]]:
    """The same reward models as transformers and PEFT run them."""
    base = AutoModelForCausalLM.from_pretrained(setup.base)
    model = PeftModel.from_pretrained(base, folder).eval()
    head = load_file(folder / "head.safetensors")

    def score(prompt: str, reply: str) -> list[float]:
        text = setup.prompt(prompt) + reply + setup.end_of_turn
        tokens = setup.tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            hidden = model.get_base_model().model(tokens).last_hidden_state
        return list((head["weight"] @ hidden[0, -1] + head["bias"]).tolist())

    return score


def test_rewards_prefer_their_style(tiny_base: Path, tmp_path: Path) -> None:
    """In single styles and minimal pairs; as rows of one base, and as PEFT says; centred."""
    setup = training(tmp_path, tiny_base, adapters=False, epochs=30)
    train_rewards(setup, resume=False)
    models = RewardModels(setup, reward_folder(setup))
    rewards = Rewards(models, {"up1": measures.MeasureReward("-words")})
    rows = setup.styles.split("train")
    names = [pole.name for pole in setup.pack.space.poles]
    for row in rows:
        found = models.score([(row.prompt, text, names) for text in row.answers.values()])
        scores = dict(zip(row.answers, found, strict=True))
        for pair in data.comparisons(setup.pack.space, row.answers):
            assert scores[pair.chosen][pair.pole.name] > scores[pair.rejected][pair.pole.name]
    oracle = _scores(setup, reward_folder(setup))("explain 3", "the mat 3")
    ours = models.score([("explain 3", "the mat 3", names)])[0]
    assert [ours[name] for name in names] == pytest.approx(oracle, rel=0.1, abs=0.15)  # bf16
    mixed = rewards.score([("explain 3", "the cat 3", ("up0", "up1"))])
    assert mixed[0]["up1"] == -3.0
    codes = ("AA", "AB", "BA", "BB")
    found = models.score([(r.prompt, text, names) for r in rows for text in r.texts(codes)])
    for name in names:
        mean = sum(row[name] for row in found) / len(found)
        assert mean == pytest.approx(0.0, abs=0.3)  # bf16, of scores around 5


# Which product is said to be the faster one: beside other work, a process may measure either.
SCRIPT = """
import sys
from mpd_core.training import machine
machine._bf16_is_faster = lambda: sys.argv[3] == "bf16"
from mpd_core.cli import main
sys.exit(main(["train", "experts", "--pack", sys.argv[1], "--pole", "up0", "--out", sys.argv[2],
               "--resume"]))
"""


def run_training(
    pack: Pack, out: Path, *, faster: str = "fp32", kill_at: Path | None = None
) -> None:
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, str(pack.folder), str(out), faster],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    if kill_at is None:
        assert process.wait() == 0
        return
    while not list(kill_at.glob("*.safetensors")) and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_a_killed_training_resumes_to_the_same_weights(tiny_base: Path, tmp_path: Path) -> None:
    """Killed after its first checkpoint, then resumed: the weights and log of an unbroken run, also
    where bf16 seems faster by now."""
    pack = write_training_pack(tmp_path, tiny_base, adapters=False, epochs=6)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run_training(pack, whole)
    stage = Path("experts") / "up0"
    run_training(pack, broken, kill_at=broken / stage / CHECKPOINTS)
    assert not (broken / stage / RECORD).exists()
    run_training(pack, broken, faster="bf16")
    folders = [out / stage for out in (whole, broken)]
    one, other = (load_file(folder / "adapter" / WEIGHTS_FILE) for folder in folders)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert history(folders[0]) == history(folders[1])


def test_install_writes_a_pack_that_refuses_tampering(pack: Pack, tmp_path: Path) -> None:
    setup = TrainingContext.open(pack, tmp_path / "out")
    train_experts(setup, setup.pack.space.poles, resume=False)
    train_rewards(setup, resume=False)
    install(setup, pack.folder)
    trained = load_pack(pack.folder)
    assert set(trained.spec.experts.adapters) == {"up0", "down0", "up1", "down1"}
    assert trained.spec.experts.prompt == "plain"
    assert trained.spec.experts.anchor is not None
    file = pack.folder / "rewards" / "head.safetensors"
    head = load_file(file)
    save_file({**head, "weight": head["weight"] + 1}, file)
    with pytest.raises(PackError, match=r"rewards\.head: .* another SHA-256"):
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
