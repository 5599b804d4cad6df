"""Adapted output layers in the engine, and soups of adapters whose modules differ in scaling."""

from __future__ import annotations

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
from mpd_core.models.rows import RowModel
from mpd_core.packs import Pack, file_sha256, load_pack
from tests import adapter_oracle as oracle
from tests import tiny
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
