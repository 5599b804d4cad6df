"""Weights that stay in a GGUF's blocks: the same numbers, in products and in whole engines."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mpd_core.engine import Engine
from mpd_core.engine.status import held_bytes
from mpd_core.errors import PackError
from mpd_core.models.base import in_blocks, load_model, weight_format
from mpd_core.models.block_loops import MOST
from mpd_core.models.block_model import block_names
from mpd_core.models.blocks import BlockEmbedding, BlockLinear, Panels, join, unpack
from mpd_core.models.convert import convert_gguf
from mpd_core.models.files import BLOCKS
from mpd_core.models.gguf_blocks import KINDS, is_decoded, split
from mpd_core.models.light import LlamaForCausalLM
from mpd_core.models.linear import PackedLinear, SideBySide, can_pack, fuse
from mpd_core.models.rows import RowModel
from mpd_core.packs import load_pack
from mpd_core.sources.obtain import obtain
from tests import avx2, tiny, tiny_gguf
from tests.fresh_python import in_python
from tests.test_engine import ask, assert_engine_is_reference
from tests.tiny_gguf import write_gguf

LARGEST, LEAST = 65504.0, 6e-8  # of fp16
EDGES: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "random": lambda *_: None,
    "all zero": lambda codes, scales: (codes.zero_(), scales.zero_()),
    "some blocks of zeros": lambda _, scales: scales[::2, ::2].zero_(),
    "extreme codes": lambda codes, _: (codes[::2].fill_(255), codes[1::2].fill_(0x80)),
    "the largest scales": lambda _, scales: scales.copy_(scales.sign() * LARGEST),
    "the least scales": lambda _, scales: scales.copy_(scales.sign() * LEAST),
    "scales of all sizes": lambda _, scales: scales.mul_(
        2.0 ** (torch.arange(scales.numel()) % 24 - 12).view_as(scales)
    ),
}


def blocks(bits: int, height: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    codes = torch.randint(0, 256, (height, width // 32, 4 * bits), dtype=torch.uint8)
    return codes, (torch.randn(height, width // 32, 2 if bits == 4 else 1) / 64).half()


def linear(bits: int, height: int, width: int, seed: int = 0) -> BlockLinear:
    return BlockLinear(Panels.of(*blocks(bits, height, width, seed)))


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("size", [(1, 32), (33, 64), (70, 96), (100, 576)])
def test_products_are_those_of_unpacked_weights(
    edge: str, bits: int, size: tuple[int, int]
) -> None:
    """To rounding, of one row and of many: activations to 21 bits, sums to fp32."""
    codes, scales = blocks(bits, *size)
    EDGES[edge](codes, scales)
    product, weight = BlockLinear(Panels.of(codes, scales)), unpack(codes, scales).double()
    # |d| q + |m|, which may cancel out; 8-bit codes are held from 0 to 255, so that m is -128 d.
    parts = unpack(codes, scales.abs()).double().abs()
    if bits == 8:
        parts += 256 * scales.double().abs().expand(-1, -1, 32).flatten(-2)
    for rows in (1, MOST, 2 * MOST + 3):
        x = torch.randn(rows, size[1]) * 10.0 ** torch.randint(-4, 4, (rows, 1))
        found, wanted = product(x).double(), x.double() @ weight.T
        most = half_steps(x) @ weight.abs().T + 2e-6 * (x.double().abs() @ parts.T)
        assert (found - wanted).abs().le(most).all()


def half_steps(x: Tensor) -> Tensor:
    """The most that an activation [rows, in] is moved by, [rows, in]."""
    largest = x.double().abs().unflatten(-1, (-1, 32)).amax(-1, keepdim=True)
    return (0.51 / 1040319 * largest).expand(-1, -1, 32).flatten(-2)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_row_and_an_output_do_not_depend_on_others(bits: int) -> None:
    """To the bit: alone, in any crowd, at any place, and in a matrix of fewer outputs."""
    product, x = linear(bits, 100, 96), torch.randn(3 * MOST + 3, 96)
    whole = product(x)
    for count in range(1, len(x)):
        for first in (0, len(x) - count):
            assert torch.equal(product(x[first : first + count]), whole[first : first + count])
    for first, height in ((0, 1), (32, 33), (64, 36)):
        part = BlockLinear(product.panels.part(first, height))
        assert torch.equal(part(x), whole[:, first : first + height])
    assert product(x[:0]).shape == (0, 100)
    assert torch.equal(product(x.view(1, -1, 96)), whole[None])


THREADS = """
import hashlib, torch
from mpd_core.models.mix_loops import mix
from mpd_core.models.vector_code import WIDE
from mpd_core.models.kernels import loop_threads
from tests.test_blocks import linear
made = b""
for bits in (4, 8):
    torch.manual_seed(1)
    for rows in (21, 45):  # fewer and more than a panel is unpacked for
        made += linear(bits, 200, 576)(torch.randn(rows, 576)).numpy().tobytes()
for heads in range(1, 7):
    weights, values, out = torch.randn(heads, 41), torch.randn(41, 128), torch.zeros(heads, 128)
    mix(weights.numpy(), values.numpy(), out.numpy())
    made += out.numpy().tobytes()
print(loop_threads(), WIDE, hashlib.sha256(made).hexdigest())
"""


def test_threads_and_instructions_change_nothing(started_with_avx2: avx2.Started) -> None:
    """To the bit: each sum is one chain, whoever computes it, in however wide registers."""
    narrow = {**started_with_avx2.environment, "NUMBA_NUM_THREADS": "1"}
    ways = ({"NUMBA_NUM_THREADS": "1"}, {"NUMBA_NUM_THREADS": "2"}, narrow)
    found = [in_python(THREADS, **way).split() for way in ways]
    assert found[2][1] == "False"
    assert len({digest for *_, digest in found}) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_are_read_as_llama_cpp_reads_them(kind: str) -> None:
    """Numbers, to the bit, of a matrix with a row of zeros, a tiny and a huge one."""
    weight = np.random.default_rng(0).normal(0, 0.1, (8, 96)).astype(np.float32)
    weight[1], weight[2], weight[3] = 0, weight[2] * 1e-7, weight[3] * 1e4
    raw = gguf.quants.quantize(weight, gguf.GGMLQuantizationType[kind])
    wanted = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[kind])
    parts = split(kind, raw)
    panels = Panels.of(*parts)
    assert torch.equal(unpack(*parts), torch.from_numpy(wanted))
    assert torch.equal(panels.rows(torch.tensor([[3, 7]])), torch.from_numpy(wanted[[3, 7]])[None])


def test_linears_of_one_kind_become_one_and_others_lie_side_by_side() -> None:
    """To the bit what each gives; a matrix is held once."""
    x = torch.randn(3, 64)
    for parts, one in (
        ([linear(4, 64, 64), linear(4, 32, 64, 1), linear(4, 40, 64, 2)], True),
        ([linear(4, 64, 64), linear(8, 32, 64, 1)], False),
        ([linear(4, 40, 64), linear(4, 32, 64, 1)], False),
        ([linear(8, 64, 64), nn.Linear(64, 32)], False),
    ):
        if not one and not can_pack():
            continue
        wanted = torch.cat([fuse([part], packed=torch.float16)(x) for part in parts], dim=-1)
        fused = fuse(parts, packed=torch.float16)
        assert isinstance(fused, BlockLinear if one else SideBySide)
        assert torch.equal(fused(x), wanted)
        if isinstance(fused, BlockLinear):
            assert torch.equal(parts[1](x), wanted[:, 64:96])  # type: ignore[operator]
            ends = fused.panels.codes.data_ptr(), fused.panels.codes[-1].data_ptr()
            assert all(ends[0] <= part.panels.codes.data_ptr() <= ends[1] for part in parts)


def test_biases_are_joined() -> None:
    bias = torch.randn(32)
    parts = [linear(4, 32, 64), BlockLinear(Panels.of(*blocks(4, 32, 64, 1)), bias)]
    x = torch.randn(2, 64)
    wanted = torch.cat([part(x) for part in parts], dim=-1)
    joined = join(parts)
    assert joined is not None
    assert torch.equal(joined(x), wanted)


MIXES = {
    "Q4_1, output in 8 bits": {
        "token_embd": "Q8_0",
        **dict.fromkeys(
            ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up"), "Q4_1"
        ),
    },
    "each its own": {
        "token_embd": "F16",
        "attn_q": "Q4_0",
        "attn_k": "Q8_0",
        "attn_v": "Q5_1",
        "attn_output": "Q4_1",
        "ffn_gate": "Q5_0",
        "ffn_up": "Q4_0",
    },
    "embeddings alone": {"token_embd": "Q4_0"},
}


def converted(folder: Path, **changes: Any) -> Path:
    folder.mkdir()
    write_gguf(folder / "tiny.gguf", **changes)
    (folder / "base").mkdir()
    convert_gguf(folder / "tiny.gguf", folder / "base", "nobody/tiny")
    return folder / "base"


TEMPLATE = "[template]\nchat = \"{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}\""


def in_own_blocks(base: Path) -> Any:
    """As an engine loads it."""
    return load_model(base, in_blocks(weight_format("cpu"), "auto", base))


def logits_of(model: LlamaForCausalLM, tokens: torch.Tensor) -> torch.Tensor:
    """By transformers' class, with the modules of ours: its linears and its embedding."""
    whole = transformers.LlamaForCausalLM(transformers.LlamaConfig(**model.config.to_dict())).eval()
    for name, module in model.named_modules():
        if type(module).__name__ == "LlamaRMSNorm":
            whole.get_submodule(name).weight = module.weight
        elif isinstance(module, nn.Linear | nn.Embedding | BlockLinear | BlockEmbedding):
            whole.set_submodule(name, module)
    return whole(tokens).logits


@pytest.mark.parametrize("mix", MIXES)
def test_a_mixed_file_is_computed_as_it_is_unpacked(tmp_path: Path, mix: str) -> None:
    """Kept are the kinds that products read; logits are those of the model in fp32."""
    if not can_pack():
        pytest.skip("without packed products everything is fp32")
    base = converted(tmp_path / "x", kinds=MIXES[mix])
    kept = [kind for kind in MIXES[mix].values() if kind in KINDS]
    layers = sum(name != "token_embd" for name, kind in MIXES[mix].items() if kind in KINDS)
    assert len(block_names(base)) == len(kept) + layers  # two layers
    loaded, dense = in_own_blocks(base), load_model(base, weight_format("cpu", precision="fp32"))
    for name in block_names(base):
        module = loaded.model.get_submodule(name.removesuffix(".weight"))
        assert isinstance(module, BlockLinear | BlockEmbedding)
        assert torch.equal(module.weight_in_full(), dense.model.get_parameter(name))
    tokens = torch.tensor([[5, 9, 200, 7]])
    with torch.inference_mode():
        torch.testing.assert_close(
            logits_of(loaded.model, tokens), dense.model(tokens).logits, rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("first_layer", [0, 1])
def test_engines_on_blocks_equal_the_reference(tmp_path: Path, mix: str, first_layer: int) -> None:
    """Experts of all kinds, a soup, a PCM on the base, a trunk: all of it on kept blocks."""
    if not can_pack():
        pytest.skip("without packed products everything is fp32")
    base = converted(tmp_path / "x", kinds=MIXES[mix])
    options: dict[str, Any] = {"adapters": True, "pcm_trained": True, "first_layer": first_layer}
    tiny.write_pack(tmp_path, base, prompt="plain", anchor=True, extra=TEMPLATE, **options)
    methods = ("mpd", "soup", "vanilla", "expert:up0", "prompting")
    requests = [ask("Hi", "ABA", m, max_new_tokens=6) for m in methods]
    requests.append(ask("Hi", "ABA", "mpd", "strength", max_new_tokens=6))
    assert_engine_is_reference(load_pack(tmp_path), requests)


def test_what_an_engine_says_and_holds(tmp_path: Path) -> None:
    if not can_pack():
        pytest.skip("without packed products everything is fp32")
    base = converted(tmp_path / "x", kinds=MIXES["Q4_1, output in 8 bits"])
    pack = load_pack(tiny.write_pack(tmp_path, base, extra=TEMPLATE))
    said, held = {}, {}
    for precision in ("auto", "fp16", "fp32"):
        engine = Engine.open(pack, precision=precision)  # type: ignore[arg-type]
        said[precision] = engine.info.precision, engine.status()["crowd"]
        held[precision] = held_bytes(engine._runner)["base"]
        engine.close()
    assert said["auto"] == ("blocks (fp32 compute)", "equal to the bit")
    assert said["fp16"][0].startswith("fp16")
    assert said["fp32"][0] == "fp32"
    assert held["auto"] < held["fp16"] < held["fp32"]


def test_an_output_layer_shares_its_embeddings_blocks(tmp_path: Path) -> None:
    """Tied weights lie in memory once, also where layers are fused."""
    base = converted(tmp_path / "x", kinds=MIXES["Q4_1, output in 8 bits"])
    body: Any = RowModel(in_own_blocks(base).model, [], capacity=1, length=64)._body
    embedded, put_out = body._embed.panels, body.lm_head.panels
    assert put_out.codes.data_ptr() == embedded.codes.data_ptr()
    assert put_out.scales.data_ptr() == embedded.scales.data_ptr()


def test_blocks_of_other_weights_are_refused(tmp_path: Path) -> None:
    """As after training where the base lay: its old blocks would answer silently."""
    base = converted(tmp_path / "x", kinds={"ffn_up": "Q8_0"})
    weights = load_file(base / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"] *= 1.5
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        PackError, match=f"{BLOCKS} in .* is not of the weights .*: remove {BLOCKS}"
    ):
        in_own_blocks(base)
    (base / BLOCKS).unlink()
    assert not in_own_blocks(base).format.blocks


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    """In the GGUF: then nothing is kept of that matrix, and it is refused as it always was."""
    base = converted(tmp_path / "x", kinds={"ffn_up": "Q8_0", "attn_q": "Q4_1"})
    name = "model.layers.1.mlp.up_proj.weight"
    held = load_file(base / BLOCKS)
    held[f"{name}.scales"][3] = torch.inf
    save_file(held, base / BLOCKS)
    with pytest.raises(PackError, match=f"'{name}' in .* not finite: obtain it again"):
        in_own_blocks(base)


def test_what_products_run_on_is_still_importable() -> None:
    """fp16 stays what ``precision = "fp16"`` and safetensors give."""
    if not can_pack():
        pytest.skip("this machine has no kernels for packed products")
    assert isinstance(fuse([nn.Linear(64, 32)], packed=torch.float16), PackedLinear)


def test_the_same_file_gives_the_same_blocks(tmp_path: Path) -> None:
    digests = set()
    for name in "ab":
        base = converted(tmp_path / name, kinds=MIXES["each its own"])
        digests.add(hashlib.sha256((base / BLOCKS).read_bytes()).hexdigest())
    assert len(digests) == 1


@pytest.mark.base
def test_the_real_base_is_computed_as_it_is_unpacked() -> None:
    """All of it is in blocks; logits are those of its fp32 weights."""
    if not can_pack():
        pytest.skip("without packed products everything is fp32")
    pack = load_pack("smollm2-135m")
    base = obtain(pack, pack.spec.base.source)
    loaded, dense = in_own_blocks(base), load_model(base, weight_format("cpu", precision="fp32"))
    assert len(block_names(base)) == 211  # seven matrices of thirty layers, and the embeddings
    tokens = loaded.tokenizer("The sky is blue because", return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        found, wanted = logits_of(loaded.model, tokens), dense.model(tokens).logits
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=2e-3)


@pytest.mark.parametrize(
    "kinds",
    [
        ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL"),
        ("IQ4_XS", "IQ3_S", "IQ2_XXS", "IQ1_M", "TQ1_0", "MXFP4"),
    ],
)
def test_other_types_are_unpacked_as_their_own_library_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kinds: tuple[str, ...]
) -> None:
    """One file of several types, which nothing here quantises: any bytes will do."""
    names = ("token_embd", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    for size in ("HIDDEN", "FEED"):
        monkeypatch.setattr(tiny_gguf, size, 256)  # what a block of these types is long
    random, quantize = np.random.default_rng(0), gguf.quants.quantize

    def invent(tensor: Any, kind: gguf.GGMLQuantizationType) -> Any:
        if kind.name not in kinds:
            return quantize(tensor, kind)
        # Under 0x40, so that whatever a half of it may be is a number.
        shape = gguf.quant_shape_to_byte_shape(tensor.shape, kind)
        return random.integers(0, 0x40, shape, dtype=np.uint8)

    monkeypatch.setattr(gguf.quants, "quantize", invent)
    base = converted(tmp_path / "x", kinds=dict(zip(names, kinds, strict=True)))
    made = load_file(base / "model.safetensors")
    held = {t.name: t for t in gguf.GGUFReader(tmp_path / "x" / "tiny.gguf").tensors}
    ours = ("embed_tokens", *(f"layers.1.self_attn.{x}_proj" for x in "vo"))
    ours += tuple(f"layers.1.mlp.{x}_proj" for x in ("gate", "up", "down"))
    for name, kind, own in zip(names, kinds, ours, strict=True):
        found = held[f"{name if name == 'token_embd' else f'blk.1.{name}'}.weight"]
        assert found.tensor_type.name == kind
        wanted = gguf.quants.dequantize(found.data, found.tensor_type)
        assert np.array_equal(made[f"model.{own}.weight"].numpy(), wanted)
        assert np.ptp(wanted) > 0


def test_types_that_no_library_decodes_are_known() -> None:
    kinds = gguf.GGMLQuantizationType
    assert is_decoded(kinds.Q4_K)
    assert is_decoded(kinds.F32)
    assert not is_decoded(kinds.Q8_1)
    assert not is_decoded(kinds.Q8_K)
