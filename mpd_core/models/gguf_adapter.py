"""A LoRA adapter as llama.cpp reads it: a GGUF like that of llama.cpp's own script."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from mpd_core.models.adapters import load_adapter

HEADS = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}


def write_adapter(base: Path, name: str, source: Path, folder: Path) -> Path:
    """A LoRA adapter as llama.cpp reads it, in fp32; its scaling goes into B."""
    config = json.loads((base / "config.json").read_text("utf-8"))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    adapter, file = load_adapter(name, source), folder / f"{name}.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, 0.0)  # then a request's scale is all there is
    for module, (a, b) in adapter.factors.items():
        own = f"{names.get_name(module)}.weight"
        heads = config.get(HEADS.get(module.rpartition(".")[2], ""))
        writer.add_tensor(f"{own}.lora_a", a.float().contiguous().numpy())
        writer.add_tensor(f"{own}.lora_b", _paired((b * adapter.scaling).float().numpy(), heads))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _paired(rows: NDArray[Any], heads: int | None) -> NDArray[Any]:
    """Rows [out, r] in llama.cpp's order: of q and k it turns neighbours, transformers halves."""
    if heads:
        halves = rows.reshape(heads, 2, -1, *rows.shape[1:])
        rows = halves.swapaxes(1, 2).reshape(rows.shape)
    return np.ascontiguousarray(rows)
