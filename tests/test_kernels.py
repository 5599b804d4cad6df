"""Compiled loops: what torch computes, and each row to the bit what it is alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from numba import TypingError
from torch import Tensor

from mpd_core.engine import Engine
from mpd_core.engine.status import held_bytes
from mpd_core.models import kernels, merge_loops, step_loops
from mpd_core.models.mix_loops import mix
from mpd_core.models.operators import rotate
from mpd_core.packs import Pack
from tests.fresh_python import in_python
from tests.test_engine import ask

ROWS = 9
HEADS, SHARED, WIDTH, LENGTH = 6, 2, 16, 96


def random(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def run(loop: Callable[..., None], out: Tensor, *arguments: Any) -> Tensor:
    """A loop's result; tensors among its arguments are seen as arrays."""
    loop(*(a.numpy() if isinstance(a, Tensor) else a for a in arguments), out.numpy())
    return out


def norm(rows: slice) -> Tensor:
    """The sum of two, and its norm."""
    x, update = (random(ROWS, 576, seed=seed)[rows] for seed in (0, 7))
    out = run(kernels.add_norm, torch.empty_like(x), x, update, random(576, seed=1), 1e-5)
    return torch.stack([update, out], dim=1)


def gated(rows: slice) -> Tensor:
    x = 8 * random(ROWS, 2 * 100)[rows]
    return run(kernels.gated, torch.empty(len(x), 100), x)


def attended(rows: slice) -> tuple[Tensor, Tensor, Tensor]:
    """Mixed values of two tokens a row, and the keys and values that have been cached."""
    keys, values = (random(ROWS + 2, SHARED, LENGTH, WIDTH, seed=seed) for seed in (3, 4))
    cos, sin = (part[rows] for part in turning())
    out = torch.empty(*cos.shape[:2], HEADS, WIDTH)
    run(kernels.attend, out, heads()[rows], cos, sin, keys, values, PLACES[rows], POSITIONS[rows])
    return out, keys, values


def adapted(rows: slice, dtype: torch.dtype = torch.float32) -> Tensor:
    """Two tokens a row; adapters of ranks 3, 5 and 4 on outputs 0-20, 10-40 and 40-64."""
    blocks = [(0, 0, 3, 0, 20, 0), (1, 3, 5, 10, 30, 60), (2, 8, 4, 40, 24, 210)]
    a, b = (part.to(dtype) for part in FACTORS)
    if dtype is torch.float16:
        a, b = a.view(torch.int16), b.view(torch.int16)
    x, y = (random(2 * ROWS, n, seed=n).view(ROWS, 2, n)[rows].reshape(-1, n) for n in (50, 64))
    return run(kernels.add_lora, y, x, GATES[rows].contiguous(), np.array(blocks), a, b)


POSITIONS = torch.tensor([0, 1, 2, 3, 17, 63, 64, 90, 94])[:, None] + torch.arange(2)
PLACES = torch.arange(2, ROWS + 2)
FACTORS = (random(12, 50, seed=5), random(306, seed=6))
GATES = torch.tensor(
    [[2.0, 0, 0], [0, 0, 0], [0, 0.5, 0], [0, 0, 3], [0.3, 0.3, 0.3]] + [[0, 1, 0]] * 4
)


def heads() -> Tensor:
    return random(ROWS, 2, HEADS + 2 * SHARED, WIDTH, seed=2)


def turning() -> tuple[Tensor, Tensor]:
    """cos and sin of every token's position, the first half of sin negated."""
    angles = POSITIONS[:, :, None] / 100 ** (torch.arange(WIDTH // 2) / WIDTH)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)


def test_exp_is_exact_to_fp32() -> None:
    @kernels.compiled()
    def exp_all(x: Any, out: Any) -> None:
        for i in range(len(x)):
            out[i] = kernels.exp(x[i])

    x = np.linspace(-87, 88, 20001).astype(np.float32)
    out = np.empty_like(x)
    exp_all(x, out)
    np.testing.assert_allclose(out, np.exp(x.astype(np.float64)), rtol=1.3e-7)
    beyond = np.array([-np.inf, -1e30, 88.72, 89, 90, 1e30, np.inf, np.nan], np.float32)
    exp_all(beyond, out)
    assert (out[:2] > 0).all()
    assert (out[:2] < 1e-37).all()
    assert np.isposinf(out[2:7]).all()
    assert np.isnan(out[7])


def test_norm_and_gate_are_torchs() -> None:
    x, everyone = random(ROWS, 576) + random(ROWS, 576, seed=7), slice(None)
    expected = torch.stack([x, F.rms_norm(x, (576,), random(576, seed=1), 1e-5)], dim=1)
    torch.testing.assert_close(norm(everyone), expected, atol=1e-6, rtol=1e-6)
    gate, up = (8 * random(ROWS, 200)).chunk(2, dim=-1)
    torch.testing.assert_close(gated(everyone), F.silu(gate) * up, atol=1e-5, rtol=1e-6)


def test_gates_of_any_size_are_torchs() -> None:
    """As far as fp32 goes, both ways, and what is not a number stays none."""
    sizes = torch.tensor([0.0, 29, 86, 87.5, 88, 88.5, 89, 90, 100, 302, 1e4, 1e20, 3e38])
    gate = torch.cat([-sizes, sizes, torch.tensor([torch.nan])])[None]
    x = torch.cat([gate, torch.ones_like(gate)], dim=1)
    out = run(kernels.gated, torch.empty_like(gate), x)
    torch.testing.assert_close(out, F.silu(gate), atol=1e-35, rtol=2e-6, equal_nan=True)


@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
def test_attention_hides_nothing_that_is_broken(broken: float) -> None:
    """A query or a key that is not finite shows in what is mixed, and in no other row."""
    whole = attended(slice(None))[0]
    for part in (0, HEADS):  # the first query, the first key
        qkv = heads()
        qkv[4, 1, part, 3] = broken
        keys, values = (random(ROWS + 2, SHARED, LENGTH, WIDTH, seed=seed) for seed in (3, 4))
        out = torch.empty_like(whole)
        run(kernels.attend, out, qkv, *turning(), keys, values, PLACES, POSITIONS)
        assert out[4, 1, 0].isnan().all()
        others = [row for row in range(ROWS) if row != 4]
        assert torch.equal(out[others], whole[others])


def test_attention_is_torchs_and_caches_what_it_reads() -> None:
    out, keys, values = attended(slice(None))
    cos, sin = (part[:, None] for part in turning())
    parts = heads().transpose(1, 2)  # [rows, heads, T, d]
    turned = rotate(parts, cos, sin)
    for row, places in enumerate(POSITIONS.tolist()):
        own_keys, own_values = keys[2 + row], values[2 + row]
        torch.testing.assert_close(own_keys[:, places], turned[row, HEADS:-SHARED])
        assert torch.equal(own_values[:, places], parts[row, -SHARED:])
        for n, last in enumerate(places):
            seen = (own_keys[:, : last + 1], own_values[:, : last + 1])
            query = turned[row, :HEADS, n : n + 1]
            expected = F.scaled_dot_product_attention(query, *seen, enable_gqa=True)
            torch.testing.assert_close(out[row, n], expected[:, 0], atol=1e-6, rtol=1e-5)
    untouched = random(ROWS + 2, SHARED, LENGTH, WIDTH, seed=3)
    assert torch.equal(keys[:2], untouched[:2])
    assert int((keys != untouched).any(-1).sum()) == ROWS * SHARED * 2  # where tokens went


def test_tokens_are_read_alike_together_and_one_by_one() -> None:
    together, keys, values = attended(slice(None))
    again_keys, again_values = (random(ROWS + 2, SHARED, LENGTH, WIDTH, seed=s) for s in (3, 4))
    cos, sin = turning()
    for n in range(2):
        one = [part[:, n : n + 1].contiguous() for part in (heads(), cos, sin)]
        places = POSITIONS[:, n : n + 1].contiguous()
        out = torch.empty(ROWS, 1, HEADS, WIDTH)
        run(kernels.attend, out, *one, again_keys, again_values, PLACES, places)
        assert torch.equal(out[:, 0], together[:, n])
    assert torch.equal(again_keys, keys)
    assert torch.equal(again_values, values)


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 1e-5), (torch.float16, 2e-2)])
def test_adapters_are_dense_products(dtype: torch.dtype, rounding: float) -> None:
    a, b = FACTORS
    deltas = torch.zeros(3, 64, 50)
    deltas[0, 0:20] = b[:60].view(3, 20).T @ a[:3]
    deltas[1, 10:40] = b[60:210].view(5, 30).T @ a[3:8]
    deltas[2, 40:64] = b[210:].view(4, 24).T @ a[8:]
    x, y = random(2 * ROWS, 50, seed=50), random(2 * ROWS, 64, seed=64)
    weights = torch.einsum("re,eoi->roi", GATES, deltas).repeat_interleave(2, dim=0)
    expected = y + torch.einsum("roi,ri->ro", weights, x)
    got = adapted(slice(None), dtype)
    torch.testing.assert_close(got, expected, atol=rounding, rtol=rounding)
    assert torch.equal(got[2:4], y[2:4])  # the row without adapters is exactly the base


@pytest.mark.parametrize("width", [16, 64, 128])
@pytest.mark.parametrize("heads", [1, 3, 4, 8])
def test_a_heads_sum_of_values_does_not_depend_on_others(heads: int, width: int) -> None:
    for tokens in (1, 2, 37):
        weights, values = random(heads, tokens), random(tokens, width, seed=1)
        out = run(mix, torch.full((heads, width), torch.nan), weights, values)
        torch.testing.assert_close(out, (weights.double() @ values.double()).float())
        for head in range(heads):
            own = weights[head : head + 1].contiguous()
            alone = run(mix, torch.empty(1, width), own, values)
            assert torch.equal(alone[0], out[head])


@pytest.mark.parametrize("which", range(3))
def test_sums_of_what_lies_apart_are_refused(which: int) -> None:
    """They are read and written by address."""
    weights, values, out = (random(*size) for size in ((3, 2, 2), (2, 64, 2), (3, 64, 2)))
    arrays = [
        a[..., 0] if k == which else a[..., 0].clone() for k, a in enumerate((weights, values, out))
    ]
    with pytest.raises(TypingError, match="does not lie in one piece: pass a contiguous copy"):
        run(mix, arrays[2], arrays[0], arrays[1])


@pytest.mark.parametrize("loop", [norm, gated, lambda rows: attended(rows)[0], adapted])
def test_each_row_is_what_it_is_alone(loop: Callable[[slice], Tensor]) -> None:
    together = loop(slice(None)).view(ROWS, -1)
    for row in range(ROWS):
        assert torch.equal(loop(slice(row, row + 1)).view(-1), together[row])
    assert torch.equal(loop(slice(3, 7)).view(4, -1), together[3:7])


def test_adapters_lie_in_memory_once(make_pack: Callable[..., Pack]) -> None:
    """Joined for the loops when they are first used, not copied."""
    engine = Engine.open(make_pack(prompt="plain", adapters=True, pcm_trained=True))
    before = held_bytes(engine._runner)["adapters"]
    engine.generate(ask("Hi", "AAB", max_new_tokens=2))
    after = held_bytes(engine._runner)["adapters"]
    engine.close()
    assert before <= after < 1.05 * before  # a pass holds its rows' weights, too


def test_a_function_that_cannot_be_kept_on_disk_is_compiled_all_the_same() -> None:
    """As in a folder that is read-only: numba finds no place for a function without a file."""
    scope: dict[str, Any] = {}
    exec("def double(x):\n    return 2 * x", scope)
    assert kernels.compiled()(scope["double"])(math.pi) == 2 * math.pi


def test_without_openmp_loops_run_on_one_thread() -> None:
    """And never on a pool of numba's own, whatever code another environment left on disk."""
    kernels.prepare()
    code = """
import sys
sys.modules["numba.np.ufunc.omppool"] = None
from tests.test_kernels import kernels, norm
import numba
print(kernels.HAS_OPENMP, norm(slice(None)).double().sum().item())
try:
    print(numba.threading_layer())
except ValueError:
    print("none")
"""
    found, total, layer = in_python(code).split()
    assert (found, layer) == ("False", "none")
    assert float(total) == norm(slice(None)).double().sum().item()


def test_no_visitor_waits_for_a_compiler(make_pack: Callable[..., Pack]) -> None:
    """Opening an engine compiles all that its requests run."""

    def compiled() -> dict[str, list[Any]]:
        loops: dict[Any, tuple[str, ...]] = {
            kernels: ("add_norm", "gated", "attend", "add_lora"),
            merge_loops: ("sum_up", "merge", "describe"),
            step_loops: ("embed", "weigh"),
        }
        every = ((file, name) for file, names in loops.items() for name in names)
        return {name: list(getattr(file, name).signatures) for file, name in every}

    engine = Engine.open(make_pack(prompt="plain", adapters=True, pcm_trained=True))
    before = compiled()
    for method in ("mpd", "soup", "vanilla"):
        engine.generate(ask("Why is the sky blue?", "AAB", method, max_new_tokens=3))
    engine.close()
    assert compiled() == before
    assert all(before.values())
