"""Whether numbers are what they stand for, and are held by the type that they are computed in."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mpd_core.errors import PackError
from mpd_core.models.blocks import rounded_scales
from mpd_core.models.files import CONFIG, tensor_headers

NAMES = {torch.float16: "float16", torch.bfloat16: "bfloat16", torch.int8: "q8"}
"""What people call the types that weights are packed to."""
FLOATS = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})
"""Types of a safetensors file whose numbers are what they stand for."""
LAYERS = frozenset({"num_hidden_layers", "num_layers", "n_layer", "n_layers", "decoder_layers"})
SIZES = frozenset(
    {
        *("vocab_size", "hidden_size", "n_embd", "d_model", "word_embed_proj_dim", "head_dim"),
        *("intermediate_size", "moe_intermediate_size", "ffn_dim", "n_inner", "n_head"),
        *("num_attention_heads", "num_key_value_heads"),
        *("num_experts", "num_local_experts", "n_routed_experts"),
    }
)
"""Settings that are sides of tensors, or count what is stacked in one."""
PACKED = 8
"""Numbers that quantised weights may hold in one."""
LOST = 1e-2
"""Most that a tensor may change, relatively, in the type that it is held in: rounding changes it
by at most 0.2%, what is lost beyond that was too large or too small for the type."""


def is_finite(tensor: Tensor) -> bool:
    """Whether no number is infinite or NaN; without a copy, for tensors may be large."""
    if not tensor.numel():
        return True
    tensor = tensor.float() if tensor.itemsize == 1 else tensor  # fp8 cannot be compared
    ends = torch.stack(torch.aminmax(tensor))  # NaN if any number is
    return bool(ends.isfinite().all())


def is_held(tensor: Tensor, dtype: torch.dtype) -> bool:
    """Whether a type holds finite numbers to 1%, all of them together."""
    if dtype in (torch.float32, torch.float64, tensor.dtype) and tensor.dtype != torch.float64:
        return True
    if not tensor.numel():
        return True
    if dtype is torch.int8:  # in blocks, whose scales are all that can be too large or too small
        return is_held(rounded_scales(tensor), torch.float16)
    range_ = torch.finfo(dtype)
    if max(abs(float(end)) for end in torch.aminmax(tensor)) > range_.max:
        return False
    # What is below the least normal number changes by no more than a thousandth of that.
    usual = float(torch.linalg.vector_norm(tensor)) / math.sqrt(tensor.numel())
    if usual >= range_.smallest_normal / 8:
        return True
    return _size(tensor.to(dtype).to(tensor.dtype) - tensor) <= LOST * _size(tensor)


def _size(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64))


def check_sizes(folder: Path) -> None:
    """Refuse sizes that no model of these tensors has: one of such a size would be made first.

    Raises:
        PackError: names the setting.
    """
    found = json.loads((folder / CONFIG).read_text("utf-8"))
    headers = tensor_headers(folder)
    widest = max((max(shape, default=0) for _, shape in headers.values()), default=0)
    text = found.get("text_config")
    for name, value in (*found.items(), *(text.items() if isinstance(text, dict) else ())):
        most = len(headers) if name in LAYERS else PACKED * widest if name in SIZES else value
        if isinstance(value, int) and value > most:
            raise PackError(
                f"base: {folder / CONFIG} sets {name} = {value!s:.20}, and no tensor beside it "
                "is so large: use the config.json that belongs to the weights."
            )


def check_types(folder: Path, model: Any) -> None:
    """Refuse numbers that stand for others: transformers would take them as they are.

    Masks, of four axes, are never read, and a model of transformers may have been told how the
    numbers in its ``folder`` are quantised.

    Raises:
        PackError: names the first weight that is no floating-point tensor; or they are quantised so
            that products round a row's numbers by what other rows hold (LLM.int8 of bitsandbytes).
    """
    if getattr(getattr(model, "hf_quantizer", None), "pre_quantized", False):
        states = (getattr(module, "state", None) for module in model.modules())
        if any(getattr(state, "threshold", 0.0) > 0.0 for state in states):
            raise PackError(
                f"base: {folder} is quantised so that each text would be computed by what others "
                'read (llm_int8_threshold over 0): use unquantised weights with precision = "q8" '
                f"under [base], or set the threshold to 0.0 in {CONFIG}."
            )
        return
    for key, (kind, shape) in tensor_headers(folder).items():
        if key.endswith(("weight", "bias")) and len(shape) < 4 and kind not in FLOATS:
            raise PackError(
                f"base: '{key}' in {folder} is of type {kind}, and its config.json does not say "
                "what that stands for; use weights that are floating-point numbers."
            )


def check_numbers(folder: Path, model: nn.Module, packed: torch.dtype | None) -> None:
    """Hold a model's numbers against the types that they are computed in.

    ``packed`` is the type that linears and embeddings will be held in; None: as they are.

    Raises:
        PackError: names the first tensor that is not finite, or that packing would change, or the
            rope settings, if they give no frequencies.
    """
    for name, tensor in model.state_dict().items():  # a mixture's router keeps biases in buffers
        if tensor.is_floating_point() and not is_finite(tensor):
            cast = tensor.dtype is not torch.float32
            raise PackError(
                f"base: '{name}' in {folder} holds numbers that are not finite as "
                f"{str(tensor.dtype)[6:]}: obtain it again"
                + (', or set base.precision = "fp32" if they are in the file.' if cast else ".")
            )
    for name, tensor in model.named_buffers():
        if name.endswith("inv_freq") and not is_finite(tensor):  # computed, never in a file
            raise PackError(
                f"base: the rope settings in {folder / CONFIG} give frequencies that are not "
                "finite: use the config.json that belongs to the weights."
            )
    for prefix, module in model.named_modules() if packed else ():
        if not isinstance(module, (nn.Linear, nn.Embedding)):
            continue
        for name, tensor in module.named_parameters(prefix, recurse=False):
            if packed and tensor.is_floating_point() and not is_held(tensor, packed):
                raise PackError(
                    f"base: {NAMES[packed]} cannot hold '{name}' in {folder} (largest number "
                    f'{float(tensor.abs().max()):.3g}): set base.precision = "fp32".'
                )
