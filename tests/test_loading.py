"""Reading a base: exactly its tensors, whole files, no code of its own; else one sentence."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from mpd_core.engine import Engine
from mpd_core.errors import ModelSourceError, MPDError, PackError
from mpd_core.models.base import load_model, weight_format
from mpd_core.models.files import checked_folder
from mpd_core.models.linear import can_pack
from mpd_core.models.numbers import LOST, is_held
from mpd_core.models.rows import RowModel
from mpd_core.packs import load_pack
from tests import tiny
from tests.architectures import GPT, RIGHT, make_model

Tensors = dict[str, Tensor]
QUERY = "model.layers.1.self_attn.q_proj.weight"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n"


@pytest.fixture
def base(tiny_base: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return Path(shutil.copytree(tiny_base, tmp_path / "base"))


def load(folder: Path) -> Any:
    return load_model(folder, weight_format("cpu", precision="fp32")).model


def change_tensors(folder: Path, change: Callable[[Tensors], object]) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def change_config(folder: Path, **settings: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **settings}))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t.pop(QUERY), f"lacks the tensor '{QUERY}'"),
        (lambda t: t.pop("lm_head.weight"), "lacks the tensor 'lm_head.weight'"),
        (lambda t: t.update({f"other.{k}": t.pop(k) for k in list(t)}), "lacks the tensor"),
        (
            lambda t: t.update({QUERY.replace("weight", "bias"): torch.ones(64)}),
            "holds the tensor 'model.layers.1.self_attn.q_proj.bias', which LlamaForCausalLM",
        ),
        (
            lambda t: t.update({QUERY.replace("layers.1", "layers.2"): torch.ones(64, 64)}),
            "holds the tensor 'model.layers.2",
        ),
        (
            lambda t: t.update({QUERY: torch.ones(32, 64)}),
            r"q_proj.weight' in .* has the shape \(32, 64\), but \(64, 64\)",
        ),
        # Named as a mask is in old files, but a bias.
        (lambda t: t.update({"model.layers.0.attn.bias": torch.ones(64)}), "holds the tensor"),
    ],
    ids=["missing", "no head", "other prefix", "a bias", "another layer", "shape", "no mask"],
)
def test_a_base_holds_exactly_its_tensors(
    base: Path, change: Callable[[Tensors], object], sentence: str
) -> None:
    change_tensors(base, change)
    for _ in range(2):  # nothing is kept that would let it pass the second time
        with pytest.raises(PackError, match=sentence) as caught:
            load(base)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("dtype", "name"),
    [(torch.int8, "I8"), (torch.int64, "I64"), (torch.bool, "BOOL")],
)
def test_numbers_that_stand_for_others_are_no_weights(
    base: Path, dtype: torch.dtype, name: str
) -> None:
    """transformers would cast them; quantised files that lost their configuration look so."""
    change_tensors(base, lambda t: t.update({QUERY: (10 * t[QUERY]).to(dtype)}))
    change_config(base, quantization_config={"quant_method": "unheard of"})
    with pytest.raises(PackError, match=f"'{QUERY}' in .* is of type {name}"):
        load(base)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float8_e4m3fn])
def test_floats_of_any_width_are_weights(base: Path, dtype: torch.dtype) -> None:
    change_tensors(base, lambda t: t.update({QUERY: t[QUERY].to(dtype)}))
    held = load_file(base / "model.safetensors")[QUERY].float()
    assert torch.equal(load(base).get_parameter(QUERY), held)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("key", [QUERY, "model.norm.weight"])
def test_a_base_that_is_not_finite_is_named(base: Path, key: str, value: float) -> None:
    change_tensors(base, lambda t: t[key].view(-1)[3:4].fill_(value))
    with pytest.raises(PackError, match=f"'{key}' in .* not finite as float32: obtain it again"):
        load(base)


def test_a_buffer_that_is_not_finite_is_named(base: Path) -> None:
    """Biases of a mixture's router are no parameters; with NaN it would choose any experts."""
    make_model(*RIGHT["DeepSeek-V3"]).save_pretrained(base)
    bias = "model.layers.1.mlp.gate.e_score_correction_bias"
    assert bias in dict(load(base).named_buffers())
    change_tensors(base, lambda t: t[bias][1:2].fill_(float("nan")))
    with pytest.raises(PackError, match=f"'{bias}' in .* not finite as float32: obtain it again"):
        load(base)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "linear", "rope_theta": 1e4, "factor": float("nan")},
        {"rope_type": "default", "rope_theta": 0.0},
        {"rope_type": "default", "rope_theta": -10.0},
    ],
    ids=str,
)
def test_rope_settings_that_give_no_frequencies_are_named(base: Path, rope: dict[str, Any]) -> None:
    change_config(base, rope_parameters=rope)
    with pytest.raises(PackError, match=r"rope settings in .*config\.json give freq"):
        load(base)


@pytest.mark.parametrize("key", [QUERY, "model.embed_tokens.weight"])
@pytest.mark.parametrize("scale", [1e6, 1e-8])
def test_packing_does_not_change_a_base(base: Path, key: str, scale: float) -> None:
    """What overflows would be infinite, and what underflows zero, which nobody would notice."""
    if not can_pack():
        pytest.skip("this machine has no such kernels")
    change_tensors(base, lambda t: t[key].mul_(scale))
    with pytest.raises(PackError, match=f"float16 cannot hold '{key}' in .*precision = \"fp32\""):
        load_model(base, weight_format("cpu", precision="fp16"))
    assert load(base).get_parameter(key).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("outlier", [1.0, 1e6])
def test_whether_a_type_holds_numbers_is_told_without_trying_it(
    dtype: torch.dtype, outlier: float
) -> None:
    """By their usual size where that suffices; to the same answer as by all of them."""
    numbers = torch.randn(500, generator=torch.Generator().manual_seed(0))
    numbers[0] *= outlier
    answers = set()
    for exponent in range(-44, 32):
        scaled = numbers * 10.0**exponent
        lost = (scaled.to(dtype).double() - scaled.double()).norm()
        exactly = bool(lost <= LOST * scaled.double().norm())
        assert is_held(scaled, dtype) == exactly
        answers.add(exactly)
    assert dtype is torch.bfloat16 or answers == {True, False}


def test_how_a_configuration_wants_results_returned_changes_nothing(base: Path) -> None:
    tokens = torch.tensor([[5, 6, 7]])
    plain = load(base)(tokens).logits
    change_config(base, return_dict=False, output_hidden_states=True)
    assert torch.equal(load(base)(tokens).logits, plain)


def test_tied_weights_may_be_missing_and_causal_masks_left_over(base: Path) -> None:
    """GPT-2's and GPT-J's files hold their masks; those of LLaMA once held its frequencies."""
    change_config(base, tie_word_embeddings=True)
    masks = {
        "model.layers.0.attn.bias": torch.ones(1, 1, 8, 8).tril().bool(),
        "model.layers.0.attn.masked_bias": torch.tensor(-1e9),
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8),
    }
    change_tensors(base, lambda t: (t.pop("lm_head.weight"), t.update(masks)))
    model = load(base)
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()


def test_files_of_a_body_alone_are_read_too(tiny_base: Path, tmp_path: Path) -> None:
    """As GPT-2's on the hub: names without the body's prefix, the head tied, masks beside them."""
    settings = {**GPT, "tie_word_embeddings": True}
    model = make_model("gpt2", settings)
    folder = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    model.save_pretrained(folder)
    masks = {f"h.{k}.attn.masked_bias": torch.tensor(-1e4) for k in range(4)}
    masks |= {f"h.{k}.attn.bias": torch.ones(1, 1, 8, 8).tril() for k in range(4)}

    def strip(tensors: Tensors) -> None:
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        tensors.update(masks)

    change_tensors(folder, strip)
    loaded = load(folder)
    assert torch.equal(loaded.transformer.wte.weight, model.transformer.wte.weight)
    change_tensors(folder, lambda t: t.update({"h.0.attn.extra.bias": torch.ones(64)}))
    with pytest.raises(PackError, match="holds the tensor"):
        load(folder)


def test_a_configuration_of_another_size_is_named(base: Path) -> None:
    change_config(base, hidden_size=128)
    with pytest.raises(PackError, match=r"has the shape \(405, 64\), but \(405, 128\)"):
        load(base)


def test_an_architecture_that_transformers_does_not_know(base: Path) -> None:
    change_config(base, model_type="llama9")
    with pytest.raises(PackError, match=r"cannot be loaded: .*llama9"):
        load(base)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "model's unquantised"),
        ({"quantization_config": {"bits": 4, "group_size": 64}}, "model's unquantised"),
        ({"model_type": "mistral3"}, "use a causal LM that transformers knows"),
        ({"num_key_value_heads": 0}, "use a causal LM that transformers knows"),
    ],
    ids=["a program that is not installed", "of no known kind", "no causal LM", "no heads"],
)
def test_what_cannot_be_loaded_says_what_to_do(
    base: Path, settings: dict[str, Any], sentence: str
) -> None:
    change_config(base, **settings)
    with pytest.raises(PackError, match=rf"cannot be loaded: [^;]+; .*{sentence}.*\.$") as caught:
        load(base)
    assert ". " not in re.sub(r"\(.*?\)", "", str(caught.value).partition("; ")[2])


def test_weights_that_do_not_run_as_their_configuration_quantises_them(base: Path) -> None:
    change_config(base, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    with pytest.raises(PackError, match=r"cannot be run here .*; use .* unquantised weights"):
        RowModel(load(base), [], capacity=1, length=64)


def test_half_a_tokenizer_is_one_line(base: Path) -> None:
    file = base / "tokenizer.json"
    file.write_text(file.read_text()[:5000])
    with pytest.raises(PackError, match="cannot be loaded") as caught:
        load(base)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_of_its_own_is_never_run_nor_asked_for(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    """Where nothing is said, transformers waits at the terminal for a yes."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    names = ("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer")
    changed = json.loads((base / file).read_text())
    changed["auto_map"] = dict.fromkeys(names, "evil.Evil")
    changed["model_type" if file == "config.json" else "tokenizer_class"] = "Evil"
    (base / file).write_text(json.dumps(changed))
    (base / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: ...\n")
    if file == "config.json":
        with pytest.raises(PackError, match=r"cannot be loaded.*auto_map"):
            load(base)
    else:
        with contextlib.suppress(PackError):  # its tokenizer.json may do without
            load(base)
    assert not (tmp_path / "ran").exists()


def checked(folder: Path) -> Path:
    return checked_folder(folder, "base.source.folder", tokenizer=True)


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_git_lfs_pointer_is_named(base: Path, file: str) -> None:
    (base / file).write_text(POINTER)
    with pytest.raises(ModelSourceError, match=rf"{file} is a git-lfs pointer .*git lfs pull"):
        checked(base)


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw[: len(raw) - 8],
        lambda raw: raw + b"more",
        lambda raw: raw[:4],
        lambda _: b"",
        lambda _: b"PK\x03\x04" + bytes(100),
        lambda _: b"\xff" * 100,
    ],
    ids=["shorter", "longer", "a few bytes", "empty", "a zip", "noise"],
)
def test_weights_that_were_cut_are_seen(base: Path, damage: Callable[[bytes], bytes]) -> None:
    file = base / "model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ModelSourceError, match="is cut, or no safetensors file") as caught:
        checked(base)
    assert "\n" not in str(caught.value)


DEEP = "[" * 100_000
"""Python's reader of JSON gives up on it with an error of another kind."""


NOT_MISSED = [("tokenizer_config.json", b"{}"), ("special_tokens_map.json", b"{}")]


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"null", b"3", b"\0\0", DEEP.encode()])
@pytest.mark.parametrize(
    "file", ["tokenizer.json", "tokenizer_config.json", "config.json", "special_tokens_map.json"]
)
def test_files_that_hold_something_else_are_one_line(base: Path, file: str, content: bytes) -> None:
    """Two of them may be empty: then nothing is lost with them."""
    (base / file).write_bytes(content)
    pack = tiny.write_pack(base.parent, base, dimensions=1)
    if (file, content) in NOT_MISSED:
        Engine.open(load_pack(pack), device="cpu").close()
        return
    with pytest.raises(MPDError, match=re.escape(str(base))) as caught:
        Engine.open(load_pack(pack), device="cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"rms_norm_eps": "1e-5"},
        {"num_attention_heads": 3},
        {"vocab_size": None},
        {"eos_token_id": "x"},
    ],
)
def test_settings_of_another_kind_are_one_line(base: Path, settings: dict[str, Any]) -> None:
    change_config(base, **settings)
    with pytest.raises(PackError, match="cannot be loaded") as caught:
        Engine.open(load_pack(tiny.write_pack(base.parent, base, dimensions=1)), device="cpu")
    assert "\n" not in str(caught.value)


def test_a_setting_that_is_no_number_is_told_plainly(base: Path) -> None:
    change_config(base, rms_norm_eps=float("nan"))
    with pytest.raises(PackError, match=r"settings in its config\.json.* not finite; use the"):
        Engine.open(load_pack(tiny.write_pack(base.parent, base, dimensions=1)), device="cpu")


@pytest.mark.parametrize("name", ["vocab_size", "hidden_size", "head_dim", "num_hidden_layers"])
def test_a_size_without_tensors_is_refused_before_it_is_made(
    base: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_config(base, **{name: 10**9})
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", None)
    with pytest.raises(PackError, match=rf"config\.json sets {name} = 1000000000, and no tensor"):
        load(base)


def test_an_adapter_beside_a_base_is_not_added_to_it(base: Path) -> None:
    """As transformers does, with whatever base the adapter itself names."""
    tiny.save_adapter(base, base, rank=2, seed=1)
    with pytest.raises(ModelSourceError, match=r"holds an adapter, too \(adapter_config\.json\)"):
        checked(base)


@pytest.mark.parametrize("content", [DEEP, '{"a": {"data_offsets": [0, NaN]}}', '{"a": 3}'])
def test_a_header_that_is_none_is_named(base: Path, content: str) -> None:
    raw = content.encode()
    (base / "model.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw)
    with pytest.raises(ModelSourceError, match="is cut, or no safetensors file"):
        checked(base)


@pytest.mark.parametrize(
    "content", [DEEP, "[]", '{"weight_map": null}', '{"weight_map": {"a": 1}}']
)
def test_an_index_that_is_none_is_named(base: Path, content: str) -> None:
    (base / "model.safetensors").unlink()
    (base / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ModelSourceError, match=r"index\.json cannot be read"):
        checked(base)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (DEEP, "cannot be read"),
        ("{", "cannot be read"),
        ("[]", "must hold a table"),
        ('{"transformers_weights": "other.safetensors"}', "sets transformers_weights"),
    ],
)
def test_a_configuration_that_is_none(base: Path, content: str, sentence: str) -> None:
    (base / "config.json").write_text(content)
    with pytest.raises(ModelSourceError, match=rf"config\.json.* {sentence}"):
        checked(base)


def test_a_whole_folder_is_loaded_as_it_is(base: Path) -> None:
    assert checked(base) == base
    plain = AutoModelForCausalLM.from_pretrained(base).state_dict()
    for name, tensor in load(base).state_dict().items():
        assert torch.equal(tensor, plain[name])


def expert_over(base: Path, tiny_base: Path) -> Path:
    """A pack whose one expert is a model of its own, in a folder that may be damaged."""
    table = f'[experts.checkpoints.up0]\nkind = "folder"\nfolder = "{base}"'
    return tiny.write_pack(base.parent, tiny_base, dimensions=1, experts=table)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda b: (b / "model.safetensors").write_text(POINTER), r"\.folder: .* git-lfs pointer"),
        (lambda b: change_tensors(b, lambda t: t.pop(QUERY)), f": .* lacks the tensor '{QUERY}'"),
        (lambda b: change_config(b, is_causal=False), ": LlamaForCausalLM gives other states"),
    ],
    ids=["a file", "a tensor", "what it computes"],
)
def test_an_expert_of_its_own_is_named_by_its_own_key(
    base: Path, tiny_base: Path, damage: Callable[[Path], object], sentence: str
) -> None:
    damage(base)
    with pytest.raises(MPDError, match=rf"^experts\.checkpoints\.up0{sentence}"):
        Engine.open(load_pack(expert_over(base, tiny_base)), device="cpu")


@pytest.mark.parametrize("twice", [False, True])
def test_a_tensor_in_two_files_is_refused(base: Path, twice: bool) -> None:
    """Of two models' files in one folder, transformers would take the last one that has it."""
    tensors = load_file(base / "model.safetensors")
    (base / "model.safetensors").unlink()
    halves = [f"model-0000{k}-of-00002.safetensors" for k in (1, 2)]
    places = {key: halves[key.startswith("model.layers.1")] for key in tensors}
    for half in halves:
        held = {key: t for key, t in tensors.items() if places[key] == half}
        if twice and half == halves[1]:
            held["model.norm.weight"] = tensors["model.norm.weight"] * 2
        save_file(held, base / half, metadata={"format": "pt"})
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    if not twice:
        assert checked_folder(base, "base") == base
        return
    with pytest.raises(ModelSourceError, match=r"00001.* and .*00002.* both hold 'model\.norm\."):
        checked_folder(base, "base")
