"""Adapted output layers in the engine, and soups of adapters whose modules differ in scaling."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from mpd_core.engine import Engine
from mpd_core.engine.reference import ReferenceDecoder
from mpd_core.errors import PackError
from mpd_core.models.adapters import WEIGHTS_FILE, load_adapter
from mpd_core.models.lora import Mix
from mpd_core.models.rows import RowModel
from mpd_core.packs import Pack, file_sha256, load_pack
from tests import adapter_oracle as oracle
from tests import tiny
from tests.architectures import RIGHT, VOCABULARY, make_model
from tests.test_engine import ask, assert_same


def write_pack(folder: Path, base: Path, adapter: Path) -> Pack:
    """One expert of its own, the others the base."""
    sha = file_sha256(adapter / WEIGHTS_FILE)
    table = f'[experts.adapters.up0]\nfolder = "{adapter}"\nsha256 = "{sha}"'
    folder.mkdir()
    return load_pack(tiny.write_pack(folder, base, experts=table))


def adapt(base: Path, folder: Path, seed: int = 1, **options: Any) -> Path:
    """An adapter of the LLaMA or Qwen2 in a folder."""
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**options))
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.2)
        model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(
    "targets", [["lm_head"], ["q_proj", "lm_head"], ["model.layers.1.mlp.up_proj", "lm_head"]]
)
def test_adapted_output_layers_in_the_engine(
    tiny_base: Path, tmp_path: Path, precision: Any, targets: list[str]
) -> None:
    """One expert has one, the others and the PCM have none; also above a shared trunk."""
    adapter = adapt(tiny_base, tmp_path / "a", r=4, lora_alpha=8, target_modules=targets)
    pack = write_pack(tmp_path / "pack", tiny_base, adapter)
    engine = Engine.open(pack, precision=precision)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PEFT, about the base's copy beside the adapter
        reference = ReferenceDecoder(pack, precision=precision)
    assert ("trunk" in engine.status()["models"]) == ("layers" in targets[0])
    said = {}
    for request in (ask(method="expert:up0"), ask(method="vanilla"), ask(preference="ABA")):
        said[request.method] = engine.generate(request).steps
        assert_same(said[request.method], tuple(reference.decode(request)))
    adapted, bare = ([step.token_id for step in steps] for steps in list(said.values())[:2])
    assert adapted != bare
    engine.close()


def test_a_borrowed_row_survives_while_others_share(tiny_base: Path, tmp_path: Path) -> None:
    """The adapted expert's row was kept; the two bare ones begin alike and are read together."""
    adapter = adapt(tiny_base, tmp_path / "a", r=4, target_modules=["q_proj", "v_proj"])
    engine = Engine.open(write_pack(tmp_path / "pack", tiny_base, adapter), precision="fp32")
    alone = engine.generate(ask(preference="ABA")).steps
    engine.close()
    engine = Engine.open(write_pack(tmp_path / "again", tiny_base, adapter), precision="fp32")
    engine.generate(ask(method="expert:up0"))
    assert_same(engine.generate(ask(preference="ABA")).steps, alone)
    engine.close()


def test_soups_of_factors_with_patterns(tmp_path: Path) -> None:
    """(mean A)(mean B), each module with its own scaling, as PEFT's linear combination."""
    options = {"r": 4, "target_modules": ["q_proj", "up_proj"], "alpha_pattern": {"q_proj": 24}}
    folder = oracle.base_folder("llama")
    paths = [adapt(folder, tmp_path / name, seed, **options) for seed, name in enumerate("ab")]
    adapters = [load_adapter(name, path) for name, path in zip("ab", paths, strict=True)]
    rows = RowModel(oracle.base("llama"), adapters, capacity=1, length=16)
    text, mix = torch.arange(9)[None], [(("a+b", 1.0),)]
    found = rows.log_probs(rows.forward(text, text, 0, mix)[:, -1], mix)
    model = PeftModel.from_pretrained(oracle.base("llama"), paths[0], adapter_name="a")
    model.load_adapter(paths[1], adapter_name="b")
    model.add_weighted_adapter(["a", "b"], [0.25, 0.25], "both", combination_type="linear")
    model.set_adapter("both")
    with torch.inference_mode():
        expected = model.eval()(text).logits[:, -1].log_softmax(-1)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)
    other = adapt(folder, tmp_path / "c", **options | {"alpha_pattern": {"up_proj": 24}})
    mixed = [adapters[0], load_adapter("c", other)]
    rows = RowModel(oracle.base("llama"), mixed, capacity=1, length=16)
    with pytest.raises(PackError, match="equal rank, targets and alpha"):
        rows.forward(text, text, 0, [(("a+c", 1.0),)])


ARCHITECTURES = (
    "Qwen2-MoE",  # hands its shared expert all rows' tokens in one axis
    "Gemma 4 (heads of two widths)",
    "gpt-oss (windows, sinks)",
    "Phi-3, window",
    "Falcon, new decoder",
    "MPT (ALiBi)",
    "OPT, projected embedding",
    "GPT-BigCode (one key head)",
    "GPT-J",
)


def adapter_of(name: str, folder: Path, targets: str) -> tuple[Any, Any]:
    """A random model of an architecture, and PEFT's of it with a random adapter, also in files."""
    model = make_model(*RIGHT[name])
    torch.manual_seed(1)
    adapted = get_peft_model(copy.deepcopy(model), LoraConfig(r=4, target_modules=targets))
    for parameter_name, parameter in adapted.named_parameters():
        if "lora_" in parameter_name:
            torch.nn.init.normal_(parameter, std=0.2)
    adapted.save_pretrained(folder)
    return model, adapted.eval()


@pytest.mark.parametrize("graphs", [False, True], ids=["apart", "together"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_adapters_of_any_architecture_are_what_peft_makes_of_them(
    tmp_path: Path, name: str, graphs: bool
) -> None:
    """On all linears, in the middle one of three rows; the others are bare."""
    model, adapted = adapter_of(name, tmp_path, "all-linear")
    texts = torch.randint(3, VOCABULARY, (3, 9), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = model(texts).logits[:, -1].log_softmax(-1)
        expected[1] = adapted(texts[1:2]).logits[0, -1].log_softmax(-1)
    rows = RowModel(model, [load_adapter("mine", tmp_path)], capacity=3, length=64, graphs=graphs)
    mixes: list[Mix] = [(), (("mine", 1.0),), ()]
    rows.forward(texts[:, :-1], torch.arange(8).expand(3, -1), 0, mixes)
    hidden = rows.forward(texts[:, -1:], torch.full((3, 1), 8), 0, mixes)
    torch.testing.assert_close(rows.log_probs(hidden[:, 0], mixes), expected, atol=1e-4, rtol=1e-4)


def test_what_adapters_cannot_follow_is_refused_when_the_base_is_loaded(tmp_path: Path) -> None:
    """Llama 4's router is a linear that returns two things; PEFT itself fails on it, but later."""
    model, _ = adapter_of("Llama 4 (chunks)", tmp_path, ".*router")
    with pytest.raises(PackError, match=r"calls 'model\.layers\.0\.feed_forward\.router' in a"):
        RowModel(model, [load_adapter("mine", tmp_path)], capacity=2, length=64)


def test_a_linear_that_gets_some_tokens_only_is_refused(tmp_path: Path) -> None:
    """As experts of a mixture do where they are modules: whose tokens they are is not known."""
    model, _ = adapter_of("Phi", tmp_path, ".*fc1")
    mlp, own = model.model.layers[0].mlp, model.model.layers[0].mlp.forward
    mlp.forward = lambda x: torch.cat([own(x[:, :1]), own(x[:, 1:])], dim=1)
    with pytest.raises(PackError, match=r"the base calls 'model\.layers\.0\.mlp\.fc1' in a way"):
        RowModel(model, [load_adapter("mine", tmp_path)], capacity=2, length=64)
