"""The row model against transformers' own forward pass: both bodies, ragged rows, adapters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from mpd_core.engine import Engine
from mpd_core.engine.reference import ReferenceDecoder
from mpd_core.errors import PackError
from mpd_core.method.weight_head import WeightHead
from mpd_core.models.adapters import load_adapter
from mpd_core.models.cache import RowCache, Window
from mpd_core.models.linear import PACKED, can_pack, fuse
from mpd_core.models.rows import RowModel
from mpd_core.packs import load_pack
from tests import tiny
from tests.test_engine import ask, assert_same

LENGTHS = (9, 4, 1, 6)


def run_rows(model: RowModel, texts: list[Tensor], names: list[str | None]) -> list[Tensor]:
    """Last log-probabilities of ragged rows: a padded prefill, then one common decode step."""
    adapters = [((name, 1.0),) if name else () for name in names]
    width = max(map(len, texts)) - 1
    tokens = torch.stack([torch.nn.functional.pad(t[:-1], (0, width + 1 - len(t))) for t in texts])
    model.forward(tokens, torch.arange(width).expand_as(tokens), 0, adapters)
    last = torch.stack([t[-1:] for t in texts])
    positions = torch.tensor([[len(t) - 1] for t in texts])
    hidden = model.forward(last, positions, 0, adapters)[:, -1]
    return list(model.log_probs(hidden, adapters))


@pytest.fixture(scope="module")
def texts() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 400, (length,), generator=generator) for length in LENGTHS]


@pytest.mark.parametrize("lean", [True, False])
def test_rows_equal_peft_on_each_text_alone(
    tiny_base: Path, tmp_path: Path, texts: list[Tensor], lean: bool
) -> None:
    """fp32, to 1e-5 in log-probability: two adapters of different ranks and two bare rows."""
    folders = {
        name: tiny.save_adapter(tiny_base, tmp_path / name, rank=rank, seed=rank)
        for name, rank in (("one", 2), ("two", 5))
    }
    adapters = ["two", None, "one", None]
    base = AutoModelForCausalLM.from_pretrained(tiny_base)
    stack = [load_adapter(name, folder) for name, folder in folders.items()]
    rows = run_rows(RowModel(base, stack, capacity=4, length=64, lean=lean), texts, adapters)
    for text, adapter, got in zip(texts, adapters, rows, strict=True):
        plain = AutoModelForCausalLM.from_pretrained(tiny_base)
        oracle = PeftModel.from_pretrained(plain, folders[adapter]) if adapter else plain
        with torch.inference_mode():
            expected = oracle(text[None]).logits[0, -1].log_softmax(-1)
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_steps_at_fixed_shapes(tiny_base: Path, tmp_path: Path, texts: list[Tensor]) -> None:
    """Three rows in a bucket of four, as they are by themselves; the row that is idle in it, and
    may belong to someone who is being prefilled, keeps what it holds."""
    adapters = [
        load_adapter(name, tiny.save_adapter(tiny_base, tmp_path / name, rank=2, seed=seed))
        for seed, name in enumerate(("one", "two"))
    ]

    def rows(graphs: bool) -> RowModel:
        base = AutoModelForCausalLM.from_pretrained(tiny_base)
        return RowModel(base, adapters, capacity=8, length=64, graphs=graphs)

    plain, fixed = rows(graphs=False), rows(graphs=True)
    names = [None, "one", None]
    newcomer, places = texts[0][None, :5], torch.arange(5)[None]
    found = []
    for model in (plain, fixed):
        model.forward(newcomer, places, 3, [(("one", 1.0),)])
        # A bucket that is met without adapters, then with one.
        found += [run_rows(model, texts[:3], chosen) for chosen in ([None] * 3, names)]
        last = model.forward(texts[0][None, 5:6], torch.tensor([[5]]), 3, [(("one", 1.0),)])
        found.append([last])
    assert (plain.graphs, fixed.graphs) == (None, 1)
    (step,) = fixed._graphs._steps.values()
    fixed.forward(newcomer, places, 5, [(("two", 1.0),)])  # prefill lays out another adapter
    run_rows(fixed, texts[:3], names)
    assert step not in fixed._graphs._steps.values()  # it would read where weights were
    for expected, got in zip(found[:3], found[3:], strict=True):
        for one, other in zip(expected, got, strict=True):
            torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "rounding"), [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)], ids=["fp16", "bf16"]
)
def test_packed_products_do_not_depend_on_other_rows(dtype: torch.dtype, rounding: float) -> None:
    """Bit by bit, and within rounding of the dense product."""
    if not can_pack(dtype):
        pytest.skip("this machine has no such kernels")
    torch.manual_seed(0)
    for width, outputs in ((576, 1536), (1536, 576)):
        dense = torch.nn.Linear(width, outputs)
        packed, x = fuse([dense], packed=dtype), torch.randn(64, width)
        assert isinstance(packed, PACKED[dtype])
        whole = packed(x)
        torch.testing.assert_close(whole, dense(x), atol=rounding, rtol=rounding)
        for rows in (1, 2, 3, 7, 16, 33):
            assert torch.equal(packed(x[5 : 5 + rows]), whole[5 : 5 + rows])
        assert torch.equal(torch.cat([packed(row[None]) for row in x]), whole)


@pytest.mark.parametrize("beside", [0, 4, 16, 48, 500])
def test_packed_products_do_not_depend_on_other_outputs(beside: int) -> None:
    """An adapter's rows of a stacked matrix give the same bits wherever they lie in it."""
    if not can_pack():
        pytest.skip("this machine has no such kernels")
    torch.manual_seed(0)
    weight, x = torch.randn(12, 576), torch.randn(5, 576)
    alone = fuse([linear(weight)], packed=torch.float16)(x)
    others = torch.randn(beside, 576)
    for first in {0, beside // 2, beside}:
        stacked = torch.cat([others[:first], weight, others[first:]])
        together = fuse([linear(stacked)], packed=torch.float16)(x)
        assert together.shape == (5, len(stacked))
        assert torch.equal(together[:, first : first + 12], alone)


def linear(weight: Tensor) -> torch.nn.Linear:
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data = weight
    return layer


@pytest.mark.parametrize("packed", [torch.float16, None])
def test_fused_linears_are_their_parts_side_by_side(packed: torch.dtype | None) -> None:
    torch.manual_seed(1)
    parts = [torch.nn.Linear(64, width) for width in (32, 64, 16)]
    x = torch.randn(3, 2, 64)
    expected = torch.cat([part(x) for part in parts], dim=-1)
    torch.testing.assert_close(fuse(parts, packed=packed)(x), expected, atol=2e-3, rtol=2e-3)


def test_another_architecture_needs_only_toml(tmp_path: Path) -> None:
    """Qwen2, with biases in its attention, through the general path, equal to the reference."""
    tiny.save_qwen2(tmp_path / "base", seed=3)
    pack = load_pack(tiny.write_pack(tmp_path, tmp_path / "base", dimensions=2))
    engine, reference = Engine.open(pack), ReferenceDecoder(pack)
    for request in (ask(preference="AB"), ask(preference="BA", temperature=1.0, seed=3)):
        assert_same(engine.generate(request).steps, tuple(reference.decode(request)))
    engine.close()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_precision_can_be_chosen(tiny_pack_dir: Path, precision: str) -> None:
    pack = load_pack(tiny_pack_dir)
    engine = Engine.open(pack, precision=precision)  # type: ignore[arg-type]
    reference = ReferenceDecoder(pack, precision=precision)  # type: ignore[arg-type]
    assert engine.info.precision.startswith(precision)
    assert_same(engine.generate(ask()).steps, tuple(reference.decode(ask())))
    engine.close()


def test_head_masks_to_the_chosen_poles() -> None:
    """By hand: scores (1, 2, 3, 4) masked to poles 1 and 2 give softmax(2, 3)."""
    head = WeightHead(2, 4)
    with torch.no_grad():
        head.linear.bias.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    alpha = head(torch.randn(2), torch.tensor([False, True, True, False]))
    expected = torch.tensor([0.0, 1 / (1 + torch.e), torch.e / (1 + torch.e), 0.0])
    torch.testing.assert_close(alpha, expected)


def test_head_weighs_each_row_alike_in_any_company() -> None:
    torch.manual_seed(0)
    head = WeightHead(576, 6)
    torch.nn.init.normal_(head.linear.weight)
    torch.nn.init.normal_(head.pair_bias)
    hidden, chosen = torch.randn(40, 576), torch.rand(40, 6) > 0.3
    chosen[:, 0] = True
    together = head(hidden, chosen)
    for row in (0, 7, 39):
        assert torch.equal(head(hidden[row : row + 1], chosen[row : row + 1])[0], together[row])


def test_zero_head_is_uniform_for_any_choice() -> None:
    head = WeightHead(8, 6)
    chosen = torch.tensor([True, False, True, False, False, True])
    assert head(torch.randn(8), chosen).tolist() == pytest.approx([1 / 3, 0, 1 / 3, 0, 0, 1 / 3])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.pop("base_model.model.model.layers.1.self_attn.v_proj.lora_A.weight"),
            "B only",
        ),
        (lambda t: t.update({"lm_head.bias": torch.zeros(1)}), "unknown tensor 'lm_head.bias'"),
        (
            lambda t: [t.pop(k) for k in list(t) if "layers.0.mlp.down_proj" in k],
            r"lacks 'model\.layers\.0\.mlp\.down_proj'",
        ),
        (
            lambda t: t.update(
                {f"base_model.model.lm_head.lora_{s}.weight": torch.zeros(2, 2) for s in "AB"}
            ),
            "'lm_head' is no linear of the base that its adapter_config.json targets",
        ),
    ],
)
def test_adapters_hold_exactly_their_tensors(
    tiny_base: Path,
    tmp_path: Path,
    change: Callable[[dict[str, Tensor]], object],
    message: str,
) -> None:
    folder = tiny.save_adapter(tiny_base, tmp_path, rank=2, seed=0)
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")
    base = AutoModelForCausalLM.from_pretrained(tiny_base)
    with pytest.raises(PackError, match=message):
        RowModel(base, [load_adapter("one", folder)], capacity=1, length=8)


def test_experts_may_be_other_models(tiny_base: Path, tmp_path: Path) -> None:
    """A Qwen2 checkpoint beside prompted rows and a LoRA-free PCM: same tokenizer, one mixture."""
    tiny.save_qwen2(tmp_path / "other", seed=8, padding=3)
    table = '[experts.checkpoints.up1]\nkind = "folder"\nfolder = "other"'
    pack = load_pack(tiny.write_pack(tmp_path, tiny_base, experts=table))
    engine, reference = Engine.open(pack), ReferenceDecoder(pack)
    for request in (ask(preference="AAB"), ask(preference="BAA", temperature=0.9, seed=5)):
        steps = engine.generate(request).steps
        assert_same(steps, tuple(reference.decode(request)))
        assert set(steps[0].weights) >= {"up1"}
    engine.close()


def test_an_expert_with_other_tokens_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    other = tiny.save_base(tmp_path / "other")
    vocabulary = (other / "tokenizer.json").read_text().replace('"<|im_end|>"', '"<|end|>"')
    (other / "tokenizer.json").write_text(vocabulary)
    table = f'[experts.checkpoints.up1]\nkind = "folder"\nfolder = "{other}"'
    pack = load_pack(tiny.write_pack(tmp_path, tiny_base, experts=table))
    with pytest.raises(PackError, match=r"'up1' does not share the base's vocabulary.*im_end"):
        Engine.open(pack)


def test_rows_give_their_memory_back_and_others_keep_theirs() -> None:
    cache = RowCache(layers=2, capacity=5, length=1024, budget=1)
    cache.window = Window(slice(0, 5), torch.arange(1024).expand(5, -1), 1024)
    for layer in cache.layers:
        layer.update(torch.full((5, 3, 1024, 8), 2.0), torch.full((5, 3, 1024, 8), 3.0))
    cache.give_back([3, 1])
    for layer in cache.layers:
        assert [int(row.sum()) for row in layer.keys] == [0, 49152, 0, 49152, 0]
        assert [int(row.sum()) for row in layer.values] == [0, 73728, 0, 73728, 0]
        assert layer.arrays(torch.empty(0))[0][0].sum() == 0.0


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's page counts")
def test_an_empty_cache_takes_no_memory() -> None:
    """A row's first tokens cost their own pages, not the room that the row may grow to."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    cache = RowCache(layers=1, capacity=64, length=4096, budget=1)
    cache.window = Window(slice(0, 64), torch.zeros(64, 1, dtype=torch.long), 64)
    before = resident()
    keys, _ = cache.layers[0].update(torch.ones(64, 4, 1, 64), torch.ones(64, 4, 1, 64))
    assert resident() - before < 32e6  # of 2 x 268 MB
    assert keys[:, :, 0].eq(1).all()
    assert keys[:, :, 1:].eq(0).all()
