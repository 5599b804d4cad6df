"""Weights of any source rounded to blocks of 8 bits: what packs ask for by ``precision = "q8"``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import gguf
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mpd_core.engine import Engine
from mpd_core.engine.status import held_bytes
from mpd_core.errors import PackError, RequestError
from mpd_core.models import base as base_module
from mpd_core.models.base import load_model, weight_format
from mpd_core.models.block_loops import MOST
from mpd_core.models.blocks import RoundedLinear, rounded, rounded_weight
from mpd_core.models.linear import round_to
from mpd_core.packs import Pack, load_pack
from tests import tiny
from tests.test_blocks import half_steps
from tests.test_engine import ask, assert_engine_is_reference

EDGES: dict[str, Callable[[Tensor], object]] = {
    "random": lambda _: None,
    "zeros": lambda weight: weight[:, :40].zero_(),
    "outliers": lambda weight: weight[:, ::17].mul_(1000),
    "all sizes": lambda weight: weight.mul_(10.0 ** torch.arange(-3, 4).repeat(14)[:96]),
}


def weights(height: int, width: int) -> Tensor:
    return torch.randn(height, width, generator=torch.Generator().manual_seed(height)) / 20


@pytest.mark.parametrize("edge", EDGES)
def test_blocks_are_what_ggufs_own_code_makes(edge: str) -> None:
    """To the bit."""
    weight = weights(70, 96)
    EDGES[edge](weight)
    raw = gguf.quants.quantize(weight.numpy(), gguf.GGMLQuantizationType.Q8_0)
    wanted = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType.Q8_0)
    assert np.array_equal(rounded_weight(weight).numpy(), wanted)
    again = rounded_weight(rounded_weight(weight))
    assert torch.equal(again, rounded_weight(weight))  # once rounded, nothing changes


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("size", [(1, 32), (33, 50), (100, 96)])
def test_products_are_those_of_the_rounded_weights(edge: str, size: tuple[int, int]) -> None:
    """To rounding, of one row and of many, also where the last block is not full."""
    weight, bias = weights(100, 96), torch.randn(100)
    EDGES[edge](weight)
    weight, bias = weight[: size[0], : size[1]].contiguous(), bias[: size[0]]
    product, unpacked = RoundedLinear(weight, bias), rounded_weight(weight).double()
    assert torch.equal(product.weight_in_full(), rounded_weight(weight))
    assert float((rounded(weight)[0].view(torch.int8).abs()).max()) <= 127
    for rows in (1, 3, 2 * MOST + 1):
        x = torch.randn(rows, size[1])
        wanted = x.double() @ unpacked.T + bias
        rounding = half_steps(F.pad(x, (0, -size[1] % 32)))[:, : size[1]]
        most = rounding @ unpacked.abs().T
        most += 2e-6 * (x.double().abs() @ unpacked.abs().T + bias.abs())
        assert (product(x).double() - wanted).abs().le(most).all()


def test_a_row_does_not_depend_on_others() -> None:
    """To the bit, in any crowd: up to and beyond where panels are unpacked for many rows."""
    product, x = RoundedLinear(weights(70, 90)), torch.randn(3 * MOST + 3, 90)
    whole = product(x)
    for count in range(1, len(x)):
        assert torch.equal(product(x[:count]), whole[:count])
        assert torch.equal(product(x[-count:]), whole[-count:])


@pytest.mark.parametrize("first_layer", [0, 1])
def test_engines_equal_the_reference(make_pack: Callable[..., Pack], first_layer: int) -> None:
    pack = make_pack(prompt="plain", adapters=True, pcm_trained=True, first_layer=first_layer)
    requests = [ask("Hi", "ABA", m, max_new_tokens=5) for m in ("mpd", "soup", "vanilla")]
    assert_engine_is_reference(pack, requests, "q8")


def test_another_architecture_equals_the_reference(tmp_path: Path) -> None:
    tiny.save_qwen2(tmp_path / "base", seed=3)
    pack = load_pack(tiny.write_pack(tmp_path, tmp_path / "base"))
    assert_engine_is_reference(pack, [ask("Hi", "ABA", "mpd", max_new_tokens=4)], "q8")


def test_what_an_engine_says_and_holds(make_pack: Callable[..., Pack]) -> None:
    """Half of fp16's bytes, and a row's bits whoever else is served."""
    held = {}
    for precision in ("q8", "fp16"):
        engine = Engine.open(make_pack(), precision=precision)  # type: ignore[arg-type]
        held[precision] = held_bytes(engine._runner)["base"]
        said = engine.info.precision, engine.status()["crowd"]
        engine.close()
        assert said == (f"{precision} (fp32 compute)", "equal to the bit")
    assert held["q8"] < 0.6 * held["fp16"]


@pytest.mark.parametrize("scale", [1e9, 1e-8])
def test_numbers_that_blocks_do_not_hold_are_refused(tmp_path: Path, scale: float) -> None:
    """Scales are fp16: beyond its range they would be infinite, or zero."""
    base = tiny.save_base(tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"].mul_(scale)
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(PackError, match=r"q8 cannot hold 'model\.layers\.1\.mlp\.up_proj\.weight'"):
        load_model(base, weight_format("cpu", precision="q8"))


def test_a_gpu_has_no_products_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = SimpleNamespace(**{**vars(torch.cuda), "is_available": lambda: True})
    monkeypatch.setattr(base_module, "torch", SimpleNamespace(**{**vars(torch), "cuda": cuda}))
    with pytest.raises(RequestError, match="'q8' is for CPUs"):
        weight_format("cuda", precision="q8")


def test_biases_and_adapters_keep_their_precision() -> None:
    """Adapters are small: fp16, as the engine has them."""
    model = nn.ModuleDict({"linear": nn.Linear(40, 8), "lora_a": nn.Linear(40, 4, bias=False)})
    bias, factor = model["linear"].bias.clone(), model["lora_a"].weight.clone()
    weight = model["linear"].weight.clone()
    round_to(model, torch.int8)
    assert torch.equal(model["linear"].bias, bias)
    assert torch.equal(model["lora_a"].weight, factor.half().float())
    assert torch.equal(model["linear"].weight, rounded_weight(weight))
