"""Trainings that were begun and not finished, and recipes that name what is not there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import MistralConfig, MistralForCausalLM

from mpd_core.cli import main
from mpd_core.engine import Engine
from mpd_core.engine.plan import ANCHOR
from mpd_core.errors import PackError
from mpd_core.evaluation.held_out.publish import install
from mpd_core.models.adapters import WEIGHTS_FILE
from mpd_core.packs import load_pack
from mpd_core.training.adapters import experts, rewards
from mpd_core.training.context import RECORD, TrainingContext
from mpd_core.training.export import check_experts, check_rewards, trained_pack, write_pack
from mpd_core.training.recipe import load_recipe
from mpd_core.training.results import ADAPTER, HEAD
from tests import tiny
from tests.training_fixtures import training, write_training_pack

POLES = ("up0", "down0", "up1", "down1")


@pytest.fixture
def setup(tiny_base: Path, tmp_path: Path) -> TrainingContext:
    """A pack without adapters, and nothing trained."""
    pack = write_training_pack(tmp_path / "pack", tiny_base, adapters=False)
    return TrainingContext.open(pack, tmp_path)


def train_expert(setup: TrainingContext, base: Path, pole: str) -> None:
    """As if it had been."""
    folder = setup.out / "experts" / pole / ADAPTER
    tiny.save_adapter(base, folder, rank=2, seed=0, first_layer=1)


def train_rewards(setup: TrainingContext, base: Path) -> None:
    folder = setup.out / "rewards" / ADAPTER
    tiny.save_adapter(base, folder, rank=2, seed=0, first_layer=1)
    tiny.save_head(folder / HEAD, hidden=64, poles=4)


def test_all_experts_or_none(setup: TrainingContext, tiny_base: Path, tmp_path: Path) -> None:
    """Without any the pack's prompts stand; with some, those that are missing are named."""
    bare = trained_pack(setup)
    assert not bare.spec.experts.adapters
    for pole in POLES[:3]:
        train_expert(setup, tiny_base, pole)
    some: Callable[[], object]
    for some in (lambda: trained_pack(setup), lambda: install(setup, tmp_path / "some")):
        with pytest.raises(PackError, match=r"experts: down1 .* run train experts --pole down1"):
            some()
    assert not (tmp_path / "some").exists()
    train_expert(setup, tiny_base, "down1")
    assert tuple(trained_pack(setup).spec.experts.adapters) == POLES


def test_a_base_that_attends_to_a_window_is_not_trained_with_full_attention(
    tmp_path: Path,
) -> None:
    """Packed answers have one mask for all layers: silently, it would be another model."""
    tokenizer = tiny.make_tokenizer()
    config = MistralConfig(
        vocab_size=len(tokenizer), hidden_size=64, sliding_window=16, **tiny.SHAPE
    )
    MistralForCausalLM(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    setup = training(tmp_path / "pack", tmp_path / "base", adapters=False)
    with pytest.raises(PackError, match=r"attends to 16 tokens .* decode\.context = 1024"):
        setup.causal_lm(setup.recipe.lora)


def test_a_base_that_lacks_a_tensor_is_not_trained(tiny_base: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_base, tmp_path / "base")
    file = tmp_path / "base" / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    setup = training(tmp_path / "pack", tmp_path / "base", adapters=False)
    with pytest.raises(PackError, match=r"lacks the tensor 'model\.layers\.1\.mlp\.up_proj"):
        setup.causal_lm(setup.recipe.lora)


def test_written_answers_need_all_experts(tiny_base: Path, tmp_path: Path) -> None:
    """They read them; a pack whose experts are prompts has nobody who could."""
    setup = training(tmp_path / "pack", tiny_base, adapters=False, answers=True)
    with pytest.raises(PackError, match="experts: up0, down0, up1, down1 have not been trained"):
        check_experts(setup)
    for pole in POLES:
        train_expert(setup, tiny_base, pole)
    check_experts(setup)


def test_adapters_of_the_pack_stand_beside_prompts(tiny_base: Path, tmp_path: Path) -> None:
    """What its author wrote is no training that was cut off."""
    pack = write_training_pack(tmp_path / "pack", tiny_base, adapters=True)
    toml = pack.folder / "pack.toml"
    text = toml.read_text().replace('prompt = "plain"', 'prompt = "own"')
    before, _, after = text.partition("[experts.adapters.down1]")
    toml.write_text(before + "[pcm]" + after.partition("[pcm]")[2])
    setup = TrainingContext.open(load_pack(pack.folder), tmp_path / "out")
    working = write_pack(setup, tmp_path / "working")
    assert tuple(working.spec.experts.adapters) == POLES[:3]
    assert working.spec.experts.prompt == "own"
    assert (working.folder / "experts" / "up0" / WEIGHTS_FILE).is_file()  # moves as a whole


def test_install_before_everything_is_there(
    setup: TrainingContext, tiny_base: Path, tmp_path: Path
) -> None:
    """Nothing, experts alone, rewards, half of a PCM."""
    target = tmp_path / "installed"
    with pytest.raises(PackError, match=r"Nothing has been trained in .*: run train experts first"):
        install(setup, target)
    for pole in POLES:
        train_expert(setup, tiny_base, pole)
    pack = load_pack(install(setup, target))
    assert len(pack.spec.experts.adapters) == 4
    assert not pack.spec.rewards
    assert not pack.trained
    train_rewards(setup, tiny_base)
    assert load_pack(install(setup, target)).spec.rewards is not None
    trained = setup.out / "pcm" / "rebel-bradley_terry"
    tiny.save_adapter(tiny_base, trained / ADAPTER, rank=2, seed=0)
    with pytest.raises(PackError, match="was cut off: run train pcm --resume first"):
        install(setup, target)
    tiny.save_head(trained / HEAD, hidden=64, poles=4)
    with pytest.raises(PackError, match="was cut off: run train pcm --resume first"):
        install(setup, target)  # between two of its iterations
    (trained / RECORD).write_text("{}")
    assert load_pack(install(setup, target)).trained


def test_a_pack_s_own_weights_do_not_stand_in_for_a_training_that_was_cut_off(
    tiny_base: Path, tmp_path: Path
) -> None:
    """They may for poles that nobody began to train here, unless all were to begin elsewhere."""
    pack = write_training_pack(tmp_path / "pack", tiny_base, adapters=True)
    setup = TrainingContext.open(pack, tmp_path / "out")
    train_expert(setup, tiny_base, "up0")
    adapters = trained_pack(setup).spec.experts.adapters
    assert adapters["up0"].folder == setup.out / "experts" / "up0" / ADAPTER
    assert tuple(adapters) == POLES
    (setup.out / "experts" / "up1" / "checkpoints").mkdir(parents=True)
    with pytest.raises(PackError, match=r"experts: up1 have not been .* experts --pole up1 first"):
        trained_pack(setup)
    train_expert(setup, tiny_base, "up1")
    trained_pack(setup)
    train_expert(setup, tiny_base, ANCHOR)
    with pytest.raises(PackError, match="experts: down0, down1 have not been trained"):
        trained_pack(setup)
    train_rewards(setup, tiny_base)
    check_rewards(setup)
    shutil.rmtree(setup.out / "rewards" / ADAPTER)
    with pytest.raises(PackError, match=r"rewards: .* was cut off: run train rewards --resume"):
        check_rewards(setup)


def test_training_anew_takes_the_former_weights_away(
    setup: TrainingContext, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off in its first step, it leaves nothing that could pass for its result."""

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    train_expert(setup, tiny_base, "up0")
    train_rewards(setup, tiny_base)
    monkeypatch.setattr(experts, "fit", killed)
    monkeypatch.setattr(rewards, "fit", killed)
    (up0,) = (pole for pole in setup.pack.space.poles if pole.name == "up0")
    for begin in (
        lambda: experts.train_experts(without_anchor(setup), [up0], resume=False),
        lambda: rewards.train_rewards(setup, resume=False),
    ):
        with pytest.raises(KeyboardInterrupt):
            begin()
    assert not (setup.out / "experts" / "up0" / ADAPTER).exists()
    assert not (setup.out / "rewards" / ADAPTER).exists()


def without_anchor(setup: TrainingContext) -> TrainingContext:
    return replace(setup, recipe=setup.recipe.model_copy(update={"anchor": None}))


def test_install_keeps_a_share_of_the_scores(
    setup: TrainingContext, tiny_base: Path, tmp_path: Path
) -> None:
    """Half of them: the softmax lies half-way, in logarithms, to equal weights. The training's own
    pack has them whole."""
    trained = setup.out / "pcm" / "rebel-bradley_terry"
    for pole in POLES:
        train_expert(setup, tiny_base, pole)
    tiny.save_adapter(tiny_base, trained / ADAPTER, rank=2, seed=0)
    tiny.save_head(trained / HEAD, hidden=64, poles=4)
    (trained / RECORD).write_text("{}")
    whole = load_file(trained / HEAD)
    half = setup.recipe.pcm.model_copy(update={"keep": 0.5})
    setup = replace(setup, recipe=setup.recipe.model_copy(update={"pcm": half}))
    pack = load_pack(install(setup, tmp_path / "installed"))
    pack.verify_files()  # its hash is that of what was written
    for name, tensor in load_file(pack.folder / "pcm" / HEAD).items():
        assert whole[name].any()
        torch.testing.assert_close(tensor, whole[name] / 2)
    head = trained_pack(setup, trained).spec.pcm.head
    assert head
    assert head.file == trained / HEAD


def test_a_pack_that_is_being_trained_opens_where_its_weights_lie(
    setup: TrainingContext, tiny_base: Path, tmp_path: Path
) -> None:
    """Nothing is written, and the engine says what it says of the same weights when written."""
    trained = setup.out / "pcm" / "rebel-bradley_terry"
    for pole in POLES:
        train_expert(setup, tiny_base, pole)
    tiny.save_adapter(tiny_base, trained / ADAPTER, rank=2, seed=0)
    tiny.save_head(trained / HEAD, hidden=64, poles=4)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    pack = trained_pack(setup, trained)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    pack.verify_files()
    assert pack.hashes["pack.toml"] != setup.pack.hashes["pack.toml"]
    written = write_pack(setup, tmp_path / "written", trained)
    assert {f"experts.adapters.{pole}.config" for pole in POLES} < written.hashes.keys()
    said = []
    for one in (pack, written):
        with Engine.open(one) as engine:
            steps = engine.generate(one.request("Hi", "AB", max_new_tokens=4)).steps
        said.append([(step.token_id, step.weights, step.entropy) for step in steps])
    assert said[0] == said[1]
    tiny.save_head(trained / HEAD, hidden=64, poles=4, seed=5)
    assert trained_pack(setup, trained).hashes["pcm.head"] != pack.hashes["pcm.head"]


@pytest.mark.parametrize("stage", ["static", "pcm"])
def test_stages_ask_for_rewards_before_they_begin(
    setup: TrainingContext, capsys: pytest.CaptureFixture[str], stage: str
) -> None:
    options = ["--pack", str(setup.pack.folder), "--out", str(setup.out)]
    assert main(["train", stage, *options]) == 2
    said = capsys.readouterr().err
    assert "rewards of up0, down0, up1, down1 are missing: run train rewards first" in said
    assert not (setup.out / "pcm").exists()


def test_another_scorer_stands_in_for_a_reward_model(tiny_base: Path, tmp_path: Path) -> None:
    pack = write_training_pack(tmp_path / "pack", tiny_base, adapters=True)
    recipe = pack.folder / "train.toml"
    scorers = "".join(f'\n[scorers.{pole}]\nmeasure = "grade"\n' for pole in POLES[1:])
    recipe.write_text(recipe.read_text() + scorers)
    setup = TrainingContext.open(pack, tmp_path / "out")
    with pytest.raises(PackError, match="rewards of up0 are missing"):
        check_rewards(setup)
    text = recipe.read_text()
    recipe.write_text(text + '\n[scorers.up0]\nmeasure = "grade"\n')
    check_rewards(TrainingContext.open(pack, tmp_path / "out"))


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ('[scorers.nobody]\nmeasure = "grade"', r"scorers\.nobody: no such pole"),
        ('[scorers.up1]\nmeasure = "grde"', r"scorers\.up1\.measure: no measure 'grde': use words"),
        ('[scorers.up1]\nmeasure = ""', r"scorers\.up1\.measure: no measure ''"),
        ('[scorers.up1]\nmeasure = "--grade"', r"scorers\.up1\.measure: no measure '--grade'"),
    ],
)
def test_recipes_name_what_is_there(
    tiny_base: Path, tmp_path: Path, table: str, complaint: str
) -> None:
    pack = write_training_pack(tmp_path, tiny_base, adapters=True)
    file = tmp_path / "train.toml"
    text = file.read_text()
    file.write_text(f"{text}\n{table}\n")
    with pytest.raises(PackError, match=r"train\.toml: " + complaint):
        load_recipe(pack)
    for measure in ('up9 = "grade"', 'up0 = "loudness"'):
        file.write_text(text.replace('up0 = "-grade"', measure))
        with pytest.raises(PackError, match=r"train\.toml: measures\.up"):
            load_recipe(pack)


@pytest.mark.parametrize("target", ["q_porj", "embed_tokens", "mlp"])
def test_recipes_name_linears_of_the_base(tiny_base: Path, tmp_path: Path, target: str) -> None:
    """One that PEFT would pass over beside others, or whose adapter no engine runs."""
    setup = training(tmp_path, tiny_base)
    lora = setup.recipe.lora.model_copy(update={"targets": ("q_proj", target)})
    with pytest.raises(PackError, match=f"the base has no linears named '{target}'"):
        setup.causal_lm(lora)


@pytest.mark.parametrize("command", ["experts", "rewards", "all", "install"])
def test_one_of_two_processes_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
) -> None:
    """As torchrun and accelerate launch start them; before anything is read or written."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    out = tmp_path / "out"
    assert main(["train", command, "--pack", str(tmp_path), "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert "WORLD_SIZE is 2, and training is one process: start it without torchrun" in said
    assert not out.exists()


def test_the_only_process_of_a_launcher_is_fine(
    setup: TrainingContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    options = ["--pack", str(setup.pack.folder), "--out", str(setup.out)]
    assert main(["train", "experts", *options, "--dry-run"]) == 0
