"""The hub as a source, against a small server that answers like it."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from tests.fake_hub import COMMIT, fake_hub
from tests.fresh_python import in_python

CONFIG = {"config.json": b"{}", "tokenizer.json": b'{"version": "1.0"}'}
WEIGHTS = save({"w": torch.zeros(2)})


def from_hub(address, home, repo="nobody/base", revision="main", pauses=False):
    code = f"""if True:
        from mpd_core.errors import ModelSourceError
        from mpd_core.sources.obtain import obtain
        from mpd_core.packs import HubSource, load_pack
        import time
        pauses, time.sleep = [], lambda seconds: pauses.append(seconds)
        source = HubSource(kind="hub", repo={repo!r}, revision={revision!r})
        try:
            print(obtain(load_pack("smollm2-135m"), source))
        except ModelSourceError as error:
            print("refused:", error)
            {'print("pauses:", sum(pauses))' if pauses else ""}"""
    return in_python(code, HF_ENDPOINT=address, HF_HOME=str(home), HF_HUB_DISABLE_XET="1")


def test_one_file_is_fetched(tmp_path):
    files = {"tiny.gguf": b"a file"}
    code = f"""if True:
        from pathlib import Path
        from mpd_core.sources.hub import hub_file
        where = ("nobody/tiny", {COMMIT!r}, "tiny.gguf", Path({str(tmp_path)!r}))
        print(hub_file(*where, print))"""
    with fake_hub("nobody/tiny", files) as (address, fetched):
        said = in_python(code, HF_ENDPOINT=address, HF_HOME=str(tmp_path), HF_HUB_DISABLE_XET="1")
    assert fetched == ["tiny.gguf"]
    assert Path(said.splitlines()[-1]).read_bytes() == files["tiny.gguf"]


def test_a_silent_hub_is_given_up_at_once(tmp_path):
    said = from_hub("http://127.0.0.1:9", tmp_path, pauses=True)
    assert said.startswith("refused: nobody/base (revision main) could not be obtained")
    assert float(said.splitlines()[-1].removeprefix("pauses: ")) < 5


def test_a_hub_snapshot_takes_no_pickle_and_serves_offline(tmp_path):
    files = {**CONFIG, "model.safetensors": WEIGHTS, "pytorch_model.bin": b"p"}
    files["onnx/a.json"] = b"{}"
    with fake_hub("nobody/base", files) as (address, fetched):
        folder = from_hub(address, tmp_path)
    assert set(fetched) == {*CONFIG, "model.safetensors"}
    assert {path.name for path in Path(folder).iterdir()} == {*CONFIG, "model.safetensors"}
    assert from_hub("http://127.0.0.1:9", tmp_path) == folder


def test_a_hub_repository_without_safetensors_is_refused(tmp_path):
    with fake_hub("nobody/base", {**CONFIG, "pytorch_model.bin": b"p"}) as (address, fetched):
        said = from_hub(address, tmp_path)
    assert "holds no model.safetensors" in said
    assert "refs/pr/" in said
    assert fetched == []


def test_only_the_weights_that_the_index_names_travel(tmp_path):
    """Repositories hold the same weights again, as one file and in other precisions."""
    shards = {f"model-{k}-of-2.safetensors": save({"w": torch.ones(k)}) for k in (1, 2)}
    index = {"weight_map": dict(zip("ab", shards, strict=True))}
    copies = ("consolidated.safetensors", "model.fp16-1-of-1.safetensors", "adapter.safetensors")
    files = {**CONFIG, **shards, **{name: name.encode() for name in copies}}
    files["model.safetensors.index.json"] = json.dumps(index).encode()
    files["model.safetensors.index.fp16.json"] = files["consolidated.index.json"] = b"[]"
    with fake_hub("nobody/base", files) as (address, fetched):
        folder = from_hub(address, tmp_path)
    assert set(fetched) == {*CONFIG, *shards, "model.safetensors.index.json"}
    assert set(fetched[-2:]) == set(shards)
    assert from_hub("http://127.0.0.1:9", tmp_path) == folder


def test_one_file_of_weights_goes_before_an_index_as_in_transformers(tmp_path):
    files = {**CONFIG, "model.safetensors": WEIGHTS, "model-1-of-1.safetensors": WEIGHTS}
    files["model.safetensors.index.json"] = b'{"weight_map": {"w": "model-1-of-1.safetensors"}}'
    with fake_hub("nobody/base", files) as (address, fetched):
        from_hub(address, tmp_path)
    assert "model.safetensors" in fetched
    assert "model-1-of-1.safetensors" not in fetched


def test_an_index_may_not_name_files_elsewhere(tmp_path):
    index = b'{"weight_map": {"w": "../../secret.safetensors"}}'
    files = {**CONFIG, "model.safetensors.index.json": index}
    with fake_hub("nobody/base", files) as (address, _):
        said = from_hub(address, tmp_path)
    assert "weight_map must name .safetensors files beside it" in said


@pytest.mark.parametrize("lost", ["model.safetensors", "tokenizer.json"])
def test_a_download_that_was_cut_off_is_seen_without_a_network(tmp_path, lost):
    files = {**CONFIG, "model.safetensors": WEIGHTS}
    with fake_hub("nobody/base", files) as (address, _):
        folder = Path(from_hub(address, tmp_path))
    (folder / lost).unlink()
    said = from_hub("http://127.0.0.1:9", tmp_path)
    assert said.startswith("refused: nobody/base (revision main)")
    assert lost in said


def test_an_unknown_hub_repository_is_a_clear_error(tmp_path):
    with fake_hub("nobody/base", CONFIG) as (address, _):
        said = from_hub(address, tmp_path, repo="nobody/other")
    assert said.startswith("refused: nobody/other (revision main) could not be obtained")
    assert "\n" not in said


def prompts_from_hub(address, home, source):
    code = f"""if True:
        from mpd_core.errors import RequestError
        from mpd_core.evaluation.prompts import prompts_of
        from mpd_core.packs import load_pack
        try:
            print(prompts_of(load_pack("smollm2-135m"), {source!r}))
        except RequestError as error:
            print("refused:", error)"""
    return in_python(code, HF_ENDPOINT=address, HF_HOME=str(home), HF_HUB_DISABLE_XET="1")


def test_prompts_of_a_data_set_are_read_and_kept(tmp_path):
    """Offline they come from the hub's cache; what is not there is refused in one sentence."""
    source = "hub:nobody/koala/data/eval.jsonl"
    with fake_hub("nobody/koala", {"data/eval.jsonl": b'{"prompt": "Why?"}'}) as (address, fetched):
        said = prompts_from_hub(address, tmp_path, source)
        other = prompts_from_hub(address, tmp_path, "hub:nobody/koala/none.jsonl")
    assert said.splitlines()[-1] == "[Prompt(id='1', text='Why?')]"
    assert fetched == ["data/eval.jsonl"]
    assert other.splitlines()[-1].startswith("refused: --prompts hub:nobody/koala/none.jsonl: ")
    silent = "http://127.0.0.1:9"
    assert prompts_from_hub(silent, tmp_path, source).splitlines()[-1] == said.splitlines()[-1]
    away = prompts_from_hub(silent, tmp_path / "other", source).splitlines()[-1]
    assert away.endswith("the Hugging Face hub does not answer.")
    assert "write hub:OWNER/NAME/FILE" in prompts_from_hub(silent, tmp_path, "hub:koala")
