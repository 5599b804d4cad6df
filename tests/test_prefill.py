"""How prompts are read on a CPU: each token once, none padded, to the same bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from mpd_core.engine import Engine
from mpd_core.engine import runner as runner_module
from mpd_core.engine.plan import ExpertCall
from mpd_core.engine.prefill import Pieces
from mpd_core.engine.sequence import CacheRow
from mpd_core.models.adapters import load_adapter
from mpd_core.models.linear import can_pack
from mpd_core.models.rows import RowModel
from mpd_core.packs import Pack
from tests import tiny
from tests.test_engine import ask, assert_same

LENGTHS, PLACES = (40, 7, 1, 23), (5, 0, 3, 2)
MIXES = [(("one", 1.0),), (), (("one", 0.5),), ()]


def rows(base: Path, folder: Path) -> RowModel:
    adapter = load_adapter("one", tiny.save_adapter(base, folder, rank=3, seed=1))
    model = AutoModelForCausalLM.from_pretrained(base)
    return RowModel(model, [adapter], capacity=6, length=64, packed=torch.float16)


def cached(model: RowModel) -> list[Tensor]:
    """Keys and values of every layer, of the rows' own tokens."""
    return [
        side[place, :, :length].clone()
        for layer in model.cache.layers
        for side in (layer.keys, layer.values)
        for place, length in zip(PLACES, LENGTHS, strict=True)
    ]


def test_loose_tokens_are_what_each_row_is_alone(tiny_base: Path, tmp_path: Path) -> None:
    """States, keys and values to the bit, whether states are asked for or not."""
    if not can_pack():
        pytest.skip("without packed products rows differ by rounding")
    model, empty = rows(tiny_base, tmp_path / "one"), rows(tiny_base, tmp_path / "two")
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(0, 400, (n,), generator=generator) for n in LENGTHS]
    alone = [
        model.forward(text[None], torch.arange(len(text))[None], place, [mix])[0]
        for text, place, mix in zip(texts, PLACES, MIXES, strict=True)
    ]
    wanted = cached(model)
    loose: Any = (
        torch.cat(texts)[None],
        torch.cat([torch.arange(n) for n in LENGTHS])[None],
        torch.tensor(PLACES).repeat_interleave(torch.tensor(LENGTHS)),
        [mix for mix, n in zip(MIXES, LENGTHS, strict=True) for _ in range(n)],
    )
    assert model.ragged
    assert torch.equal(model.forward(*loose)[0], torch.cat(alone))
    assert empty.forward(*loose, False).shape[1] == 0
    for one in (model, empty):
        assert all(torch.equal(*pair) for pair in zip(cached(one), wanted, strict=True))


class Counted:
    """Tokens that an engine's lanes read of prompts, and what they read of them."""

    def __init__(self, engine: Engine, patch: pytest.MonkeyPatch) -> None:
        self.read: dict[str, list[tuple[int, int]]] = {}
        for name, lane in engine._runner.lanes.items():
            patch.setattr(lane, "forward", self._counting(name, lane.forward))

    def _counting(self, name: str, forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def counted(inputs: Tensor, positions: Tensor, first: Any, *rest: Any) -> Tensor:
            if isinstance(first, Tensor):
                where = zip(first.tolist(), positions[0].tolist(), strict=True)
                self.read.setdefault(name, []).extend(where)
            return forward(inputs, positions, first, *rest)

        return counted


@pytest.mark.parametrize("prompt", ["plain", "own"])
@pytest.mark.parametrize("chunk", [16, 128])
def test_each_token_is_read_once(
    make_pack: Callable[..., Pack], monkeypatch: pytest.MonkeyPatch, prompt: str, chunk: int
) -> None:
    """By each adapter above the trunk, and in the trunk by nobody whose text begins alike."""
    monkeypatch.setattr(runner_module, "CPU_CHUNK", chunk)
    pack = make_pack(prompt=prompt, adapters=True, pcm_trained=True, first_layer=1)
    request = ask("Why is the sky blue, and why not green?", "AAA", max_new_tokens=4)
    with Engine.open(pack, kept_rows=0) as engine:
        sequence = engine._processor.sequence(request)
        counted = Counted(engine, monkeypatch)
        steps = engine.generate(request).steps
    upper = sum(row.to_prefill for row in sequence.on("base"))
    first, *others = sequence.on("trunk")
    lower = first.to_prefill + sum(row.to_prefill - row.prefix_len for row in others)
    assert min(row.prefix_len for row in others) > 8
    assert len(counted.read["base"]) == upper == len(set(counted.read["base"]))
    assert len(counted.read["trunk"]) == lower == len(set(counted.read["trunk"]))
    with Engine.open(pack, kept_rows=0) as engine:  # as blocks, padded
        for lane in engine._runner.lanes.values():
            lane.ragged = False
        assert_same(engine.generate(request).steps, steps)


def test_a_request_that_begins_with_others_rows(
    make_pack: Callable[..., Pack],
) -> None:
    """Rows that hold something already, each up to another place, are as good as new ones."""
    pack = make_pack(prompt="own", adapters=True, pcm_trained=True, first_layer=1)
    asked = ask("Tell me about the sea and the sky. " * 3, "AAA", max_new_tokens=3)
    other = ask("Tell me about the sea and the sand. " * 3, "ABA", max_new_tokens=3)
    mixed = [
        asked,
        other,
        replace(asked, preference="ABB"),
        replace(other, preference="-AA"),
        asked,
    ]
    with Engine.open(pack, kept_rows=0) as lone, Engine.open(pack, kept_rows=24) as engine:
        for request in mixed:
            assert_same(engine.generate(request).steps, lone.generate(request).steps)


def row(prompt: str, filled: int = 0, trunk: CacheRow | None = None) -> CacheRow:
    return CacheRow(ExpertCall("x"), tuple(map(ord, prompt)), 99, filled=filled, trunk=trunk)


def test_pieces_go_ahead_together_and_stop_where_trunks_part() -> None:
    one, two = row("abcdefgh"), row("abcxyz")
    two.prefix_leader, two.prefix_len = one, 3
    rows = [row("abcdefgh", trunk=one), row("abcdefgh", 2, trunk=one), row("abcxyz", trunk=two)]
    ends = [t.to_prefill for t in rows]
    first = Pieces.next(rows, ends, most=100)
    assert list(first) == [(rows[0], 0, 3), (rows[1], 2, 3), (rows[2], 0, 3)]
    assert list(first.below()) == [(one, 0, 3)]  # of both texts
    assert first.among(first.below()).tolist() == [0, 1, 2, 2, 0, 1, 2]
    first.done()
    second = Pieces.next(rows, ends, most=100)
    assert list(second) == [(rows[0], 3, 7), (rows[1], 3, 7), (rows[2], 3, 5)]
    assert list(second.below()) == [(one, 3, 7), (two, 3, 5)]
    assert second.among(second.below()).tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 4, 5]
    assert list(Pieces.next(rows, ends, most=4)) == [(t, 3, 4) for t in rows]
    assert list(Pieces.next(rows, ends, most=1)) == [(t, 3, 4) for t in rows]
