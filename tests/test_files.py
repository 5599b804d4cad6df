"""Files as other programs write them: marks of byte order, line ends that are none, bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from mpd_core.engine import Engine
from mpd_core.engine.reference import ReferenceDecoder
from mpd_core.errors import PackError
from mpd_core.method.weight_head import WeightHead
from mpd_core.models.pcm import load_head
from mpd_core.packs import Pack, file_sha256, load_pack
from mpd_core.training import checkpoint
from mpd_core.training.data import load_styles
from mpd_core.training.pcm.policy import take_known_poles
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


def test_heads_of_earlier_versions_are_read(tmp_path: Path) -> None:
    """``pair_bias`` was called ``pairs``: the pack's file, a warm start and a state to resume."""
    torch.manual_seed(0)
    tensors = {"weight": torch.randn(2, 8), "bias": torch.randn(2), "pairs": torch.randn(2, 2)}
    old, new = tmp_path / "old.safetensors", tmp_path / "new.safetensors"
    save_file(tensors, old, metadata={"poles": "b,a"})
    head = load_head(8, 2, old)
    assert torch.equal(head.pair_bias, tensors["pairs"])
    save_file(head.tensors(), new)
    assert load_file(new).keys() == {"weight", "bias", "pair_bias"}
    assert torch.equal(load_head(8, 2, new).pair_bias, head.pair_bias)
    save_file({**tensors, "pair_bias": torch.zeros(2, 2)}, new)
    with pytest.raises(PackError, match=r"'pairs'.*but the pack needs"):
        load_head(8, 2, new)
    grown = WeightHead(8, 3)
    take_known_poles(grown, ("a", "c", "b"), old)
    swapped = tensors["pairs"].flip(0, 1)
    torch.testing.assert_close(grown.pair_bias.detach()[::2, ::2], swapped)
    with_all = nn.ModuleDict({"head": WeightHead(8, 2)})
    optimiser = torch.optim.AdamW(with_all.parameters())
    checkpoint.save(new, with_all, optimiser, {})
    state = {name.replace("pair_bias", "pairs"): t + 1 for name, t in load_file(new).items()}
    save_file(state, new)
    checkpoint.load(new, with_all, optimiser, {"head.pairs": "head.pair_bias"})
    assert with_all["head"].pair_bias.tolist() == [[1, 1], [1, 1]]
