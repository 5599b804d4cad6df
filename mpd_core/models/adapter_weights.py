"""``adapter_model.safetensors`` as PEFT writes it: factors, and what may lie beside them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from mpd_core.errors import PackError, others_as
from mpd_core.models.adapter_config import AGAIN, MERGE
from mpd_core.models.files import check_no_pointer
from mpd_core.models.numbers import is_finite

WEIGHTS_FILE = "adapter_model.safetensors"
_PREFIX = r"^base_model\.model\.(?P<module>.+)"
_FACTOR = re.compile(_PREFIX + r"\.lora_(?P<side>[AB])\.weight$")
_COPY = re.compile(_PREFIX + r"\.(?P<parameter>weight|bias)$")
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_KNOWN = {
    "lora_embedding_": "adapts the embeddings",
    "lora_magnitude_vector": "is of DoRA",
    "modules_to_save": "is of a module that was saved whole",
    "lora_B.bias": "is a bias of LoRA's own",
}
"""Parts of keys that PEFT writes, but not for plain LoRA."""

Factors = Mapping[str, tuple[Tensor, Tensor]]
"""Module name to A [rank, in] and B [out, rank]."""


Copies = Mapping[str, tuple[Path, str]]
"""By names in the base, file and key of the base's own parameters, which PEFT saves beside the
factors of an output layer."""


def read_copies(copies: Copies) -> Iterator[tuple[str, Tensor]]:
    """Names in the base and tensors, one by one: they may be large."""
    for name, (file, key) in copies.items():
        with safe_open(file, "pt") as tensors:
            yield name, tensors.get_tensor(key)


def read_weights(folder: Path) -> tuple[Factors, Copies]:
    """Read an adapter's tensors.

    Returns:
        Its factors, all finite, in the file's type or fp32; and what lies beside them.

    Raises:
        PackError: a file that is missing or broken, or tensors that are not plain LoRA's.
    """
    file = folder / WEIGHTS_FILE
    sides: dict[str, dict[str, Tensor]] = {}
    beside: dict[str, tuple[Path, str]] = {}
    for key, tensor in _tensors(file):
        if match := _FACTOR.match(key):
            sides.setdefault(match["module"], {})[match["side"]] = tensor
        elif (match := _COPY.match(key)) and not any(part in key for part in (*_KNOWN, "lora_")):
            module = match["module"].removesuffix(".base_layer")
            beside[f"{module}.{match['parameter']}"] = file, key
        else:
            raise PackError(_unknown(key))
    for module, pair in sides.items():
        if set(pair) != {"A", "B"}:
            raise PackError(f"'{module}' has lora_{''.join(pair)} only in {WEIGHTS_FILE}: {AGAIN}.")
    factors = {module: (pair["A"], pair["B"]) for module, pair in sides.items()}
    return factors, beside


def _tensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    """Keys and factors; whatever else there is stays in the file, an empty tensor instead."""
    with others_as(PackError, lambda why: f"{file} cannot be read ({why}): {AGAIN}."):
        check_no_pointer(file, PackError)
        with safe_open(file, "pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118
                factor = _FACTOR.match(key)
                yield key, _numbers(key, tensors) if factor else torch.empty(0)


def _numbers(key: str, tensors: Any) -> Tensor:
    tensor: Tensor = tensors.get_tensor(key)
    if tensor.dtype not in _FLOATS:
        raise PackError(
            f"'{key}' in {WEIGHTS_FILE} is {str(tensor.dtype)[6:]}: save it again as fp32, fp16 or "
            "bf16."
        )
    tensor = tensor.float() if tensor.dtype is torch.float64 else tensor
    if not is_finite(tensor):
        raise PackError(
            f"'{key}' in {WEIGHTS_FILE} holds numbers that are not finite: use an earlier "
            "checkpoint of its training."
        )
    return tensor


def _unknown(key: str) -> str:
    for part, what in _KNOWN.items():
        if part in key:
            return f"'{key}' in {WEIGHTS_FILE} {what}, which is not computed: {MERGE}."
    return (
        f"unknown tensor '{key}' in {WEIGHTS_FILE} (factors are named base_model.model.MODULE"
        ".lora_A.weight there): save it again with PEFT's save_pretrained."
    )
