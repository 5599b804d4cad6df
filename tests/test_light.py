"""What is read and held without transformers' model code is what that code would have read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, pre_tokenizers
from torch import nn
from transformers import AutoConfig, AutoTokenizer
from transformers import LlamaForCausalLM as Transformers

from mpd_core.errors import PackError
from mpd_core.models.files import LOCAL
from mpd_core.models.light import LlamaForCausalLM, read_config, read_tokenizer
from mpd_core.models.llama import is_llama
from tests import tiny
from tests.fresh_python import ROOT, in_python
from tests.test_blocks import MIXES, TEMPLATE, converted, in_own_blocks

HEAVY = (
    "transformers.modeling_utils",
    "transformers.activations",
    "torch._dynamo",
    "torch.distributed.tensor",
    "sympy",
    "peft",
)
OPENED = f"""
import sys
from mpd_core.engine import Engine
from mpd_core.packs import load_pack
with Engine.open(load_pack({{pack!r}})) as engine:
    print(engine.info.precision, sorted(set({HEAVY}) & set(sys.modules)))
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted GGUF, all of whose matrices but one kind stay in blocks."""
    return converted(tmp_path_factory.mktemp("x") / "x", kinds=MIXES["Q4_1, output in 8 bits"])


def change(base: Path, folder: Path, **settings: Any) -> Path:
    """The same folder with other settings in its configuration; None takes one out."""
    for file in base.iterdir():
        (folder / file.name).hardlink_to(file)
    told = json.loads((base / "config.json").read_text()) | settings
    (folder / "config.json").unlink()
    told = {name: value for name, value in told.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(told))
    return folder


def test_a_configuration_says_what_transformers_reads(base: Path) -> None:
    light = read_config(base)
    assert light
    found, wanted = light.to_dict(), AutoConfig.from_pretrained(base, **LOCAL).to_dict()
    idle = {"use_cache", "_name_or_path"}
    assert {k: v for k, v in found.items() if k not in idle} == {
        k: v for k, v in wanted.items() if k not in idle
    }
    assert light.get_text_config(decoder=True) is light


def test_a_tokenizer_is_the_one_that_transformers_reads(base: Path, tmp_path: Path) -> None:
    light, wanted = read_tokenizer(base), AutoTokenizer.from_pretrained(base, **LOCAL)
    assert type(light) is type(wanted)
    assert light.backend_tokenizer.to_str() == wanted.backend_tokenizer.to_str()
    assert light.special_tokens_map == wanted.special_tokens_map
    assert light.all_special_ids == wanted.all_special_ids
    text = "hello <|im_end|>\n  hellé 🙂"
    assert light(text)["input_ids"] == wanted(text)["input_ids"]
    assert light.decode(light(text)["input_ids"]) == wanted.decode(wanted(text)["input_ids"])
    own = tiny.save_base(tmp_path / "own")  # not converted: whatever it is
    assert type(read_tokenizer(own)) is type(AutoTokenizer.from_pretrained(own, **LOCAL))


@pytest.mark.parametrize("named", ["GPT2Tokenizer", "Qwen2TokenizerFast", "GemmaTokenizer"])
def test_a_tokenizer_is_what_its_file_says(tmp_path: Path, named: str) -> None:
    """Whatever class its configuration names: these make it anew, by rules of their own."""
    base = tiny.save_base(tmp_path / "base")
    told = json.loads((base / "tokenizer_config.json").read_text())
    (base / "tokenizer_config.json").write_text(json.dumps(told | {"tokenizer_class": named}))
    written = Tokenizer.from_file(str(base / "tokenizer.json"))
    digits = pre_tokenizers.Digits(individual_digits=True)
    written.pre_tokenizer = pre_tokenizers.Sequence([digits, written.pre_tokenizer])
    written.save(str(base / "tokenizer.json"))
    text = " the cat's\n\n1. 2026"
    found = read_tokenizer(base)
    ids = written.encode(text).ids
    assert found(text, add_special_tokens=False)["input_ids"] == ids
    assert found.decode(ids) == text
    assert (found.eos_token, found.bos_token) == ("<|im_end|>", "<|im_start|>")
    assert found.chat_template == tiny.CHAT
    assert found.name_or_path == str(base)


@pytest.mark.parametrize("named", ["GPT2Tokenizer", "LlamaTokenizer"])
def test_words_and_merges_alone_are_read_or_refused(tmp_path: Path, named: str) -> None:
    """Of these two classes one finds no word in any text, and would leave all out."""
    made = json.loads(tiny.make_tokenizer().backend_tokenizer.to_str())["model"]
    merges = "\n".join(" ".join(pair) for pair in made["merges"])
    (tmp_path / "vocab.json").write_text(json.dumps(made["vocab"]))
    (tmp_path / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": named}))
    if named == "GPT2Tokenizer":
        read = read_tokenizer(tmp_path)
        assert read.decode(read(" the cat")["input_ids"]) == " the cat"
        return
    with pytest.raises(PackError, match=r"LlamaTokenizer .* add the model's tokenizer\.json\.$"):
        read_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "settings", [{}, {"attention_bias": True, "mlp_bias": True}, {"head_dim": 8}]
)
@pytest.mark.parametrize("tied", [True, False])
def test_modules_are_those_of_transformers(
    base: Path, tmp_path: Path, settings: dict[str, Any], tied: bool
) -> None:
    """Their names, kinds and sizes, by which adapters find them; and rotations, to the bit."""
    folder = change(base, tmp_path, tie_word_embeddings=tied, **settings)
    light, heavy = (
        LlamaForCausalLM(read_config(folder)),
        Transformers(AutoConfig.from_pretrained(folder, **LOCAL)),
    )

    def described(model: Any) -> dict[str, Any]:
        sizes = {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}
        named = {name: type(m).__name__ for name, m in model.named_modules()}
        assert all(type(m) is nn.Linear for name, m in model.named_modules() if "_proj" in name)
        return sizes | {n: k for n, k in named.items() if not n.endswith("act_fn")}

    assert described(light) == described(heavy)
    assert is_llama(light)
    assert is_llama(heavy)
    positions = torch.tensor([[0, 1, 77, 8191]])
    for x in (torch.zeros(1), torch.zeros(1, dtype=torch.float16)):
        for found, wanted in zip(
            light.model.rotary_emb(x, positions),
            heavy.model.rotary_emb(x, positions),
            strict=True,
        ):
            assert torch.equal(found, wanted)
            assert found.dtype is wanted.dtype


@pytest.mark.parametrize(
    "settings",
    [
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}},
        {"rope_parameters": None},
        {"hidden_act": "gelu"},
        {"model_type": "mistral", "sliding_window": 4},
        {"logits_scaling": 2.0},
        {"is_causal": False},
        {"per_layer_config": {"0": {"num_key_value_heads": 1}}},
        {"num_key_value_heads": 3},
        {"head_dim": None},
        {"hidden_size": "32"},
        {"tie_word_embeddings": 1},
    ],
)
def test_what_is_not_plain_is_left_to_transformers(
    base: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    assert read_config(base)
    assert read_config(change(base, tmp_path, **settings)) is None


def test_a_scaled_rotation_goes_on_as_transformers_computes_it(base: Path, tmp_path: Path) -> None:
    rope = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
    model = in_own_blocks(change(base, tmp_path, rope_parameters=rope)).model
    assert type(model) is Transformers
    assert is_llama(model)
    assert model.model.rotary_emb.rope_type == "linear"


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"intermediate_size": 96}, "mlp"),
        ({"vocab_size": 300}, "embed_tokens"),
        ({"num_key_value_heads": 4}, "k_proj|v_proj"),
        ({"num_hidden_layers": 3}, "layers.2"),
    ],
)
def test_blocks_of_other_sizes_are_refused(
    base: Path, tmp_path: Path, settings: dict[str, Any], named: str
) -> None:
    """No forward pass of transformers' would notice any more."""
    with pytest.raises(PackError, match=rf"^base: .*({named})[^\n]*$"):
        in_own_blocks(change(base, tmp_path, **settings))


def test_an_engine_on_blocks_imports_no_model_code(base: Path, tmp_path: Path) -> None:
    """130 MB of a server's memory, and seconds of its start."""
    pack = tiny.write_pack(tmp_path, base, extra=TEMPLATE, adapters=True, pcm_trained=True)
    assert in_python(OPENED.format(pack=str(pack))) == "blocks (fp32 compute) []"


def test_a_page_imports_no_pandas() -> None:
    code = "import sys, mpd_core.ui.server; print('pandas.core' in sys.modules)"
    assert in_python(code) == "False"


def test_a_page_needs_nothing_that_only_training_has() -> None:
    """``requirements.txt`` alone is what Spaces and ``make run`` install."""
    extras = ("textstat", "vaderSentiment", "wordfreq", "wordllama", "evalica")
    code = f"import sys; sys.modules.update(dict.fromkeys({extras!r}))\n"
    assert (
        in_python(code + "import mpd_core.ui.server, mpd_core.cli.app; print('there')") == "there"
    )


LATE = """
import sys
from mpd_core.lazily import import_later
import_later("no_such_package"), import_later("latecomer")
import latecomer
said = ["no_such_package" in sys.modules, "VALUE" in vars(latecomer), latecomer.VALUE]
import latecomer.deeper
print(*said, latecomer.deeper.VALUE, hasattr(latecomer, "nothing"), sys.modules["latecomer"].VALUE)
"""


def test_a_package_comes_when_something_of_it_is_asked_for(tmp_path: Path) -> None:
    for name in ("latecomer", "latecomer/deeper"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"VALUE = {len(name)}\n")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    assert in_python(LATE, PYTHONPATH=path) == "False False 9 16 False 9"
    first = LATE.replace("import latecomer\n", "from latecomer import deeper\nimport latecomer\n")
    assert in_python(first, PYTHONPATH=path) == "False True 9 16 False 9"
