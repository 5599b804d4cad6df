"""Files as other programs write them: marks of byte order, line ends that are none, bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from mpd_core.engine import Engine
from mpd_core.engine.reference import ReferenceDecoder
from mpd_core.errors import PackError
from mpd_core.models.pcm import load_head
from mpd_core.packs import Pack, file_sha256, load_pack
from mpd_core.training.data import load_styles
from mpd_core.training.recipe import load_recipe
from tests import tiny
from tests.test_engine import ask, assert_same

BOM = b"\xef\xbb\xbf"
ROW = {"id": "1", "split": "train", "prompt": "a\u2028b", "answers": {"up0": "x\u0085y"}}


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_a_pack_may_begin_with_a_mark_and_end_its_lines_in_any_way(
    tmp_path: Path, tiny_base: Path, line_end: bytes
) -> None:
    file = tiny.write_pack(tmp_path, tiny_base) / "pack.toml"
    plain = load_pack(tmp_path)
    file.write_bytes(BOM + file.read_bytes().replace(b"\n", line_end))
    marked = load_pack(tmp_path)
    assert marked.spec == plain.spec
    assert marked.hashes["pack.toml"] == file_sha256(file)


def test_a_recipe_may_begin_with_a_mark(tmp_path: Path) -> None:
    pack = load_pack("smollm2-135m")
    (tmp_path / "train.toml").write_bytes(BOM + (pack.folder / "train.toml").read_bytes())
    marked = load_recipe(Pack(pack.spec, tmp_path, pack.toml_sha256))
    assert marked.sha256 == load_recipe(pack).sha256


def test_an_adapters_configuration_may_begin_with_a_mark(tmp_path: Path, tiny_base: Path) -> None:
    """PEFT cannot read it: the slow decoder gives it a copy."""
    folder = tiny.write_pack(tmp_path, tiny_base, dimensions=1, adapters=True)
    file = folder / "up0" / "adapter_config.json"
    file.write_bytes(BOM + file.read_bytes())
    request = ask("the cat", "A", "expert:up0", max_new_tokens=4)
    engine = Engine.open(load_pack(folder), device="cpu", precision="fp32")
    steps = engine.generate(request).steps
    engine.close()
    oracle = ReferenceDecoder(load_pack(folder), precision="fp32")
    assert_same(steps, tuple(oracle.decode(request)), tolerance=1e-4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_head_that_is_not_finite_is_named(tmp_path: Path, value: float) -> None:
    file = tiny.save_head(tmp_path / "head.safetensors", hidden=8, poles=2)
    tensors = load_file(file)
    tensors["weight"][1, 3] = value
    save_file(tensors, file)
    with pytest.raises(PackError, match=r"pcm\.head: 'weight' in .* no finite"):
        load_head(8, 2, file)


def test_only_line_feeds_end_a_line_of_data(tmp_path: Path) -> None:
    file = tmp_path / "styles.jsonl"
    lines = [json.dumps({**ROW, "id": str(number)}, ensure_ascii=False) for number in range(2)]
    file.write_bytes(BOM + "\r\n".join(lines).encode())
    rows = load_styles(file).rows
    assert [(row.id, row.prompt, row.answers["up0"]) for row in rows] == [
        ("0", "a\u2028b", "x\u0085y"),
        ("1", "a\u2028b", "x\u0085y"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"id": "caf\xe9"}', "is not UTF-8"),
        (json.dumps({**ROW, "answers": ["x"]}).encode(), "jsonl:1: not a row"),
        (b"[]", "jsonl:1: not a row"),
    ],
)
def test_data_that_cannot_be_read_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "styles.jsonl"
    file.write_bytes(content)
    with pytest.raises(PackError, match=message):
        load_styles(file)
