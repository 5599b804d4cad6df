"""Adapters that the bench gives llama.cpp: the engine's own numbers, in llama.cpp's order."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
from gguf import GGUFReader

from mpd_core.models.adapters import load_adapter
from mpd_core.models.gguf_adapter import write_adapter
from tests import tiny
from tests.test_blocks import converted


def numbers(file: Path) -> dict[str, np.ndarray]:
    """Every tensor of a GGUF, unpacked."""
    return {
        tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        for tensor in GGUFReader(file).tensors
    }


def test_an_adapter_changes_the_rows_that_it_changed(tmp_path: Path) -> None:
    """B A in llama.cpp's order is the change in ours, with all of its scaling."""
    base = converted(tmp_path / "x", kinds={"attn_q": "Q4_1"})
    folder = tiny.save_adapter(base, tmp_path / "a", rank=3, seed=1)
    adapter = load_adapter("a", folder)
    found = numbers(write_adapter(base, "a", folder, tmp_path))
    assert len(found) == 2 * len(adapter.factors)
    for module, (a, b) in adapter.factors.items():
        if not module.startswith("model.layers.1.self_attn.q_proj"):
            continue
        change = (adapter.scaling * b @ a).numpy().reshape(4, 2, 4, 32)  # heads of two halves
        own = found["blk.1.attn_q.weight.lora_b"] @ found["blk.1.attn_q.weight.lora_a"]
        pairs = own.reshape(4, 4, 2, 32)
        np.testing.assert_allclose(pairs.swapaxes(1, 2), change, rtol=1e-5, atol=1e-6)
        break
    else:
        raise AssertionError("the adapter has no q_proj")
