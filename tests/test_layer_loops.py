"""A decoder whose layers are one loop computes what its layers compute one by one, to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from mpd_core.models.adapters import load_adapter
from mpd_core.models.lora import Mix
from mpd_core.models.rows import RowModel
from tests import tiny

ROWS: list[Mix] = [(), (("a", 1.0),), (("a", 0.5), ("b", 0.5)), (("a+c", 1.0),)]


def decoder(folder: Path, *, whole: bool, layers: range | None = None) -> tuple[RowModel, Any]:
    """A model with adapters of other ranks and on other layers; and its body."""
    if not (folder / "base").is_dir():
        tiny.save_base(folder / "base")
        for rank, name in ((3, "a"), (5, "b"), (3, "c")):
            kind: dict[str, int] = {
                "rank": rank,
                "seed": ord(name),
                "first_layer": int(name == "b"),
            }
            tiny.save_adapter(folder / "base", folder / name, **kind)
    adapters = [load_adapter(name, folder / name) for name in "abc"]
    model = LlamaForCausalLM.from_pretrained(folder / "base").eval()
    options = {"capacity": 4, "length": 64, "packed": torch.int8, "layers": layers}
    made = RowModel(model, [] if layers else adapters, **options)
    body: Any = made._body
    assert body._table is not None
    if not whole:
        body._table = None
    return made, body


def states(model: RowModel) -> list[Tensor]:
    """Of prompts of other lengths read as loose tokens, and of two steps of all rows."""
    generator = torch.Generator().manual_seed(0)
    lengths = (9, 4, 7, 1)
    rows = torch.cat([torch.full((n,), k) for k, n in enumerate(lengths)])
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    tokens = torch.randint(0, 60, (1, len(rows)), generator=generator)
    made = []
    for asked in (False, True):  # the second time over what is there
        own = [ROWS[int(row)] for row in rows]
        made.append(model.forward(tokens, positions, rows, own, asked))
    for step in range(2):
        tokens = torch.randint(0, 60, (4, 1), generator=generator)
        at = torch.tensor(lengths)[:, None] + step
        made.append(model.forward(tokens, at, 0, ROWS))
    cached = [t[:, :, :11] for layer in model.cache.layers for t in (layer.keys, layer.values)]
    return [*made, *cached]


def test_all_layers_in_one_loop_are_the_layers_one_by_one(tmp_path: Path) -> None:
    """States and what is cached, with adapters that come while it runs."""
    one_by_one = states(decoder(tmp_path, whole=False)[0])
    for found, wanted in zip(states(decoder(tmp_path, whole=True)[0]), one_by_one, strict=True):
        assert torch.equal(found, wanted)


def test_a_trunk_is_one_loop_too(tmp_path: Path) -> None:
    made = []
    for whole in (False, True):
        model, _ = decoder(tmp_path, whole=whole, layers=range(1))
        tokens = torch.tensor([[5, 9, 3]])
        made.append(model.forward(tokens, torch.arange(3)[None], 0, [()]))
    assert torch.equal(*made)


@pytest.mark.parametrize("packed", [torch.float16, torch.int8])
def test_other_linears_are_computed_one_by_one(tmp_path: Path, packed: torch.dtype) -> None:
    """fp16, and linears with a bias."""
    tiny.save_base(tmp_path / "base")
    model = LlamaForCausalLM.from_pretrained(tmp_path / "base").eval()
    if packed is torch.int8:
        down = model.model.layers[1].mlp.down_proj
        down.bias = torch.nn.Parameter(torch.ones(down.out_features))
    body: Any = RowModel(model, [], capacity=1, length=64, packed=packed)._body
    assert body._table is None
