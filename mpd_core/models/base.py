"""Loading a base model: device, precision, quantisation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers.utils import logging as transformers_logging

from mpd_core.errors import PackError
from mpd_core.packs import Quantize


@dataclass(frozen=True)
class LoadedModel:
    """A causal LM with its tokenizer, and words for how its weights are held."""

    model: Any
    tokenizer: Any
    device: str
    precision: str


def default_device() -> str:
    """``cuda`` where there is a GPU that torch can use, else ``cpu``."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def compute_dtype(device: str) -> torch.dtype:
    """bf16 on a GPU that has it in hardware, fp16 on older ones (T4), fp32 on the CPU."""
    if device != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability()[0] >= 8 else torch.float16


def nf4_config(dtype: torch.dtype) -> BitsAndBytesConfig:
    """4-bit NormalFloat with double quantisation (Dettmers et al., 2023)."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def load_model(folder: Path, *, quantize: Quantize, device: str) -> LoadedModel:
    """Load a base from a local folder of safetensors.

    Args:
        folder: as ``save_pretrained`` writes it; no pickles, no remote code.
        quantize: ``nf4`` or ``none``.
        device: ``cpu`` or ``cuda``.

    Raises:
        PackError: the folder holds no model that transformers can read.
    """
    dtype = compute_dtype(device)
    options: dict[str, Any] = {"dtype": dtype, "device_map": device}
    if quantize == "nf4":
        options["quantization_config"] = nf4_config(dtype)
    transformers_logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, **options
        )
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise PackError(f"base: {folder} cannot be loaded: {reason}") from error
    model.eval().requires_grad_(False)
    short = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]
    precision = f"nf4 ({short} compute)" if quantize == "nf4" else short
    return LoadedModel(model, tokenizer, device, precision)
