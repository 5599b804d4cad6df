"""Whatever adapter is loaded is computed as PEFT computes it, or refused in one sentence."""

from __future__ import annotations

import json
import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from mpd_core.errors import PackError
from mpd_core.models import targets
from mpd_core.models.adapter_config import CONFIG_FILE, LoraSettings
from mpd_core.models.adapters import WEIGHTS_FILE, load_adapter, lowest_layer
from mpd_core.models.linear import can_pack
from mpd_core.models.rows import RowModel
from mpd_core.resources import MOST_BYTES
from tests import adapter_kinds as kinds
from tests import adapter_oracle as oracle
from tests import tiny
from tests.adapter_edits import configured
from tests.adapter_table import TABLE


@pytest.mark.parametrize("kind", kinds.COMPUTED, ids=lambda kind: kind.name)
def test_computed_as_peft_does(kind: kinds.Kind, tmp_path: Path) -> None:
    """Beside bare rows, by both decoders; and what PEFT says is far from what the base says."""
    wrong, effect = oracle.differences(kind, oracle.make(kind, tmp_path))
    assert wrong < 2e-5
    assert effect > 1e-2 or kind.options["lora_alpha"] == 0


@pytest.mark.parametrize("kind", kinds.OTHER_KINDS + kinds.BROKEN, ids=lambda kind: kind.name)
def test_refused_in_one_sentence(kind: kinds.Kind, tmp_path: Path) -> None:
    """It names the adapter and one of its files, and says what to do."""
    folder = oracle.make(kind, tmp_path)
    with pytest.raises(PackError, match=re.escape(kind.refused)) as caught:
        oracle.differences(kind, folder)
    said = str(caught.value)
    assert said.startswith("adapter 'mine': ")
    assert "\n" not in said
    assert CONFIG_FILE in said or WEIGHTS_FILE in said
    assert re.search(r": (use|save|merge|obtain|run|correct|name) [^:]*\.$", said)


def test_the_table_of_kinds_is_of_these_kinds() -> None:
    rows = [line.split(" | ") for line in TABLE.read_text().splitlines() if line[:2] == "| "]
    told = {name.removeprefix("| "): said for name, said in rows[1:]}
    assert list(told) == [kind.name for kind in kinds.KINDS]
    for kind in kinds.KINDS:
        assert (kind.refused or "right (") in told[kind.name]


CONFIGS: list[dict[str, Any]] = [
    {"target_modules": targets, "exclude_modules": excluded, "layers_to_transform": layers}
    for targets, excluded, layers in product(
        (["q_proj", "0.self_attn.v_proj"], ["model.layers.1.mlp.up_proj", "gate_proj"], ["layers"]),
        (None, ["1.self_attn.q_proj", "lm_head"], r"model\.layers\.0\..*"),
        (None, 0, [1], []),
    )
]
CONFIGS += [
    {"target_modules": ["proj", "q_proj"], "layers_to_transform": [1], "layers_pattern": pattern}
    for pattern in ("layers", ["h", "layers"], "h", r"model\.(layers|h)", [], "")
]
CONFIGS += [{"target_modules": text} for text in (r".*_proj", "q_proj", r"(?i).*MLP\..*", "lm.*")]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_targets_are_those_of_peft(config: dict[str, Any]) -> None:
    model = oracle.base("llama")
    expected = LoraConfig(**config)
    names = [name for name, _ in model.named_modules() if name]
    adapted = {name for name in names if check_target_module_exists(expected, name)}
    assert LoraSettings(peft_type="LORA", **config).targets(model) == adapted


@pytest.mark.parametrize(
    "pattern", ["q_proj", r"layers\.0\..*_proj", "^model.layers.1.mlp.up_proj", "proj", "q|v_proj"]
)
def test_patterns_are_those_of_peft(pattern: str) -> None:
    """The first that fits a name gives its rank and its alpha."""
    ranks, alphas = {pattern: 3, "k_proj": 5}, {pattern: 6.0}
    settings = LoraSettings(peft_type="LORA", rank_pattern=ranks, alpha_pattern=alphas)
    for name, _ in oracle.base("llama").named_modules():
        rank = ranks.get(get_pattern_key(list(ranks), name), 8)
        assert settings.rank(name) == rank
        assert settings.scaling(name) == alphas.get(get_pattern_key([pattern], name), 8) / rank


def test_lowest_layers() -> None:
    """An output layer lies above all decoder layers; what is unknown may be anywhere."""

    class Named:
        def __init__(self, *modules: str) -> None:
            self.factors = dict.fromkeys(modules)

    def lowest(*modules: str) -> int:
        return lowest_layer([Named(*modules)], 4)  # type: ignore[list-item]

    assert lowest("lm_head") == 4
    assert lowest("lm_head", "model.layers.2.mlp.up_proj") == 2
    assert lowest("model.layers.2.mlp.up_proj", "elsewhere") == 0


@pytest.mark.parametrize(("value", "held"), [(6e4, True), (1e5, False), (1e-8, False)])
def test_factors_that_fp16_does_not_hold(
    tiny_base: Path, tmp_path: Path, value: float, held: bool
) -> None:
    """Too large or too small: refused where they are held in fp16, computed in fp32."""
    if not can_pack():
        pytest.skip("this machine has no fp16 products")
    folder = tiny.save_adapter(tiny_base, tmp_path, rank=2, seed=0)
    tensors = load_file(folder / WEIGHTS_FILE)
    tensors[min(tensors)].fill_(value)
    save_file(tensors, folder / WEIGHTS_FILE)
    adapter = load_adapter("one", folder)
    for packed in (None, torch.float16):
        base = AutoModelForCausalLM.from_pretrained(tiny_base)
        if packed is None or held:
            RowModel(base, [adapter], capacity=1, length=8, packed=packed)
            continue
        with pytest.raises(PackError, match=r"float16 cannot hold lora_A of 'model\."):
            RowModel(base, [adapter], capacity=1, length=8, packed=packed)


def test_a_scaling_that_overflows_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    folder = tiny.save_adapter(tiny_base, tmp_path, rank=2, seed=0)
    configured(lora_alpha=1e39)(folder)
    base = AutoModelForCausalLM.from_pretrained(tiny_base)
    with pytest.raises(
        PackError, match=r"float32 cannot hold its scaling .*: correct lora_alpha in"
    ):
        RowModel(base, [load_adapter("one", folder)], capacity=1, length=8)


def test_an_overflow_stays_in_its_own_row(tiny_base: Path, tmp_path: Path) -> None:
    """In fp16 another row's adapter may overflow on this row's input, where it counts nothing."""
    folder = tiny.save_adapter(tiny_base, tmp_path, rank=2, seed=0)
    tensors = load_file(folder / WEIGHTS_FILE)
    tensors |= {key: t.fill_(6e4) for key, t in tensors.items() if "lora_A" in key}
    save_file(tensors, folder / WEIGHTS_FILE)
    base = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float16)
    rows = RowModel(base, [load_adapter("one", folder)], capacity=2, length=8, graphs=True)
    text, mixes = torch.tensor([[5], [6]]), [(), (("one", 1.0),)]
    hidden = rows.forward(text, torch.zeros_like(text), 0, mixes)
    assert hidden[0].isfinite().all()
    assert not hidden[1].isfinite().all()


def test_a_module_that_a_decoder_does_not_take_is_refused(tmp_path: Path) -> None:
    """The general guard: nothing that a configuration targets is ever left out silently."""
    model = oracle.base("llama")
    model.model.spare = torch.nn.Linear(64, 64)  # no code runs it
    torch.manual_seed(0)
    adapted = get_peft_model(oracle.base("llama"), LoraConfig(target_modules=["q_proj"]))
    adapted.save_pretrained(tmp_path)
    configured(target_modules=["q_proj", "spare"])(tmp_path)
    tensors = load_file(tmp_path / WEIGHTS_FILE)
    for side, shape in (("A", (8, 64)), ("B", (64, 8))):
        tensors[f"base_model.model.model.spare.lora_{side}.weight"] = torch.ones(shape)
    save_file(tensors, tmp_path / WEIGHTS_FILE)
    with pytest.raises(PackError, match=r"does not compute 'model\.spare'"):
        RowModel(model, [load_adapter("one", tmp_path)], capacity=1, length=8)


def test_a_configuration_may_begin_with_a_mark(tiny_base: Path, tmp_path: Path) -> None:
    """Windows' editors put one before UTF-8."""
    folder = tiny.save_adapter(tiny_base, tmp_path, rank=2, seed=0)
    plain = load_adapter("one", folder)
    file = folder / CONFIG_FILE
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert load_adapter("one", folder).settings == plain.settings
    assert json.loads(file.read_text("utf-8-sig"))["r"] == plain.settings.r == 2


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": "(.*[a-z])*!"},
        {"exclude_modules": r"(\w+\.?)+[XYZ]"},
        {"rank_pattern": {"([a-z_.0-9]+)+!": 4}},
        {"layers_to_transform": [0], "layers_pattern": ["layers", "(.*[a-z])*!"]},
        {"target_modules": ".*[a-z]" * 12 + "!"},
    ],
    ids=str,
)
def test_an_expression_without_an_end_is_refused(
    config: dict[str, Any], tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would hold the whole process: Python breaks no match off."""
    monkeypatch.setattr(targets, "PATIENCE_S", 1.0)
    folder = tiny.save_adapter(tiny_base, tmp_path / "mine", rank=2, seed=0)
    configured(**config)(folder)
    with pytest.raises(PackError, match=r"adapter 'mine': .* without an end: correct it"):
        load_adapter("mine", folder).check(LlamaForCausalLM.from_pretrained(tiny_base))


def test_an_expression_of_many_parts_is_tried_and_taken(tiny_base: Path, tmp_path: Path) -> None:
    """Such as trainers write that choose modules by what their names hold."""
    folder = tiny.save_adapter(tiny_base, tmp_path / "mine", rank=2, seed=0)
    long = r"(?:.*?(?:text|model).*?(?:attn|mlp).*?(?:q|v|down)_proj.*?)|(?:\bx\.[\d]{1,}\.(y))"
    configured(target_modules=long)(folder)
    load_adapter("mine", folder).check(LlamaForCausalLM.from_pretrained(tiny_base))


def test_a_configuration_of_megabytes_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    folder = tiny.save_adapter(tiny_base, tmp_path / "mine", rank=2, seed=0)
    (folder / CONFIG_FILE).write_text('{"peft_type": "LORA"' + " " * MOST_BYTES + "}")
    with pytest.raises(PackError, match="more than 1,048,576 bytes"):
        load_adapter("mine", folder)
