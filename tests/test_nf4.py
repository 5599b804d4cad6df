"""The 4-bit path, on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import bitsandbytes as bnb
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from mpd_core.engine import Engine
from mpd_core.engine.reference import ReferenceDecoder
from mpd_core.errors import PackError
from mpd_core.models.base import load_model, nf4_config, weight_format
from mpd_core.packs import Pack, Precision, load_pack
from tests import tiny
from tests.test_engine import ask, assert_same


@pytest.fixture(scope="module")
def nf4_engine(make_pack: Callable[..., Pack]) -> Engine:
    return Engine.open(make_pack(adapters=True, pcm_trained=True), quantize="nf4")


def test_configuration_is_nf4_with_double_quantisation() -> None:
    config = nf4_config(torch.float16)
    assert config.load_in_4bit
    assert config.bnb_4bit_quant_type == "nf4"
    assert config.bnb_4bit_use_double_quant
    assert config.bnb_4bit_compute_dtype is torch.float16
    assert weight_format("cpu", "nf4").dtype is torch.float32


def test_linears_are_four_bit_under_the_adapters(nf4_engine: Engine) -> None:
    layers = nf4_engine._runner.lanes["base"]._body._layers
    blocks = [b for layer in layers for b in (layer.qkv, layer.out, layer.gate_up, layer.down)]
    linears = [m for b in blocks for m in b.modules() if isinstance(m, bnb.nn.Linear4bit)]
    assert len(linears) == 2 * 7
    assert all(linear.weight.dtype is torch.uint8 for linear in linears)


def test_info_says_so(nf4_engine: Engine) -> None:
    assert nf4_engine.info.precision == "nf4 (fp32 compute)"
    assert any("slower" in note for note in nf4_engine.info.notes)


def test_engine_equals_reference_in_four_bits(nf4_engine: Engine) -> None:
    """Same quantised weights on both sides, PEFT's forward against stacked LoRA over Linear4bit.

    bitsandbytes picks its kernel by the number of rows, and where the CPU has AVX512 one of them
    multiplies in bf16: logits agree to about 0.005 here, not to rounding.
    """
    reference = ReferenceDecoder(nf4_engine.pack, quantize="nf4")
    for request in (ask(), ask(preference="B-A", temperature=1.0, seed=2), ask(method="vanilla")):
        steps = nf4_engine.generate(request).steps
        assert_same(steps, tuple(reference.decode(request)), tolerance=0.03)


def test_eight_bits_that_mix_rows_are_refused(tiny_base: Path, tmp_path: Path) -> None:
    """LLM.int8 keeps apart the inputs in which any row of a batch has a large number."""
    for threshold in (6.0, 0.0):
        folder = tmp_path / str(threshold)
        config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=threshold)
        model = AutoModelForCausalLM.from_pretrained(tiny_base, quantization_config=config)
        for saved in (model, tiny.make_tokenizer()):
            saved.save_pretrained(folder)
    load_model(folder, weight_format("cpu"))
    with pytest.raises(PackError, match=r"^base: .*llm_int8_threshold over 0\): use unquantised"):
        load_model(tmp_path / "6.0", weight_format("cpu"))


def test_four_bits_are_not_full_precision(make_pack: Callable[..., Pack]) -> None:
    requests = ask(method="vanilla")
    said = []
    for quantize in ("nf4", "none"):
        engine = Engine.open(make_pack(), quantize=quantize)  # type: ignore[arg-type]
        said.append(engine.generate(requests).steps[0].logprobs["base"])
        engine.close()
    assert said[0] != pytest.approx(said[1], abs=1e-4)


@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_a_base_that_is_saved_in_four_bits_stays_so(
    tmp_path: Path, tiny_base: Path, precision: Precision
) -> None:
    """Its whole numbers are what its configuration says; only what is dense is packed."""
    model = AutoModelForCausalLM.from_pretrained(
        tiny_base, quantization_config=nf4_config(torch.float32)
    )
    model.save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(tiny_base).save_pretrained(tmp_path / "base")
    pack = load_pack(tiny.write_pack(tmp_path, tmp_path / "base", dimensions=1))
    engine = Engine.open(pack, device="cpu", precision=precision)
    steps = engine.generate(ask(preference="A", method="vanilla")).steps
    status = engine.status()
    engine.close()
    assert (
        status["models"]["base"]["products"]["Linear4bit"] == 4
    )  # one output and one down a layer
    oracle = ReferenceDecoder(pack, precision=precision)
    expected = tuple(oracle.decode(ask(preference="A", method="vanilla")))
    assert_same(steps, expected, tolerance=0.03)
