"""Loading a base model: device, precision, quantisation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mpd_core.errors import PackError, RequestError, others_as
from mpd_core.models.architecture import text_config
from mpd_core.models.block_model import block_names, load_in_blocks
from mpd_core.models.convert import quiet_transformers
from mpd_core.models.files import LOCAL, advice, tensor_headers
from mpd_core.models.light import read_tokenizer
from mpd_core.models.linear import can_pack
from mpd_core.models.numbers import check_numbers, check_sizes, check_types
from mpd_core.models.threads import settle
from mpd_core.packs import Precision, Quantize

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig

settle()  # before any product is computed

DTYPES = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "q8": torch.int8,
}
"""By what packs call them; ``q8`` are blocks of 8 bits with a scale in fp16 for 32 inputs."""


@dataclass(frozen=True)
class WeightFormat:
    """How weights are held and in what type products are summed.

    Attributes:
        device: ``cpu`` or ``cuda``.
        quantize: ``nf4`` or ``none``.
        dtype: of activations, and of weights that are neither quantised nor packed.
        packed: type that dense linears are to be packed to (CPU); they are loaded in ``dtype``.
        blocks: matrices stay in the blocks that a converted base has kept, if it has (CPU).
    """

    device: str
    quantize: Quantize
    dtype: torch.dtype
    packed: torch.dtype | None
    blocks: bool = False

    def __str__(self) -> str:
        names = {dtype: name for name, dtype in DTYPES.items()}
        held = "blocks" if self.blocks else names[self.packed or self.dtype]
        held = "nf4" if self.quantize == "nf4" else held
        short = names[self.dtype]
        return short if held == short else f"{held} ({short} compute)"


@dataclass(frozen=True)
class LoadedModel:
    """A causal LM with its tokenizer, and how its weights are held."""

    model: Any
    tokenizer: Any
    format: WeightFormat
    kept: frozenset[str] = frozenset()
    """Parameters that are computed as they are where others are rounded to be packed."""

    @property
    def config(self) -> Any:
        """The part of the model's configuration that is about text."""
        return text_config(self.model)


def default_device() -> str:
    """``cuda`` where there is a GPU that torch can use, else ``cpu``."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def weight_format(
    device: str | None = None, quantize: Quantize = "none", precision: Precision = "auto"
) -> WeightFormat:
    """Resolve what a pack or a user asks for to what this machine can do.

    Blocks are not asked for here: only who runs a model by ``RowModel`` can, see ``in_blocks``.

    Raises:
        RequestError: a device that is not there, or a precision that the device cannot run.
    """
    device = device or default_device()
    if device not in ("cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        raise RequestError(f"Device '{device}' is not available here: use cpu.")
    if device == "cuda":
        if precision == "q8":
            raise RequestError("Precision 'q8' is for CPUs: use auto, or quantize nf4.")
        # bf16 where the card has it in hardware, fp16 on older ones (T4).
        auto = "bf16" if torch.cuda.get_device_capability()[0] >= 8 else "fp16"
        dtype = DTYPES[auto if precision == "auto" else precision]
        return WeightFormat(device, quantize, dtype, packed=None)
    wanted = DTYPES["fp16" if precision == "auto" else precision]
    able = wanted is torch.float32 or can_pack(wanted)
    if not able and precision != "auto":
        raise RequestError(f"Precision '{precision}' does not run on this CPU: use fp32 or auto.")
    packed = quantize == "none" and able and wanted is not torch.float32
    return WeightFormat(device, quantize, torch.float32, wanted if packed else None)


def in_blocks(format_: WeightFormat, precision: Precision, folder: Path) -> WeightFormat:
    """The same with blocks, where they are what ``auto`` means: on a CPU, of a base that has some.

    They are exactly the base's weights, which fp16 rounds, and fewer bytes; ``q8``, too, leaves
    them as they are.
    """
    asked = {"auto": torch.float16, "q8": torch.int8}.get(precision)
    kept = asked is not None and format_.packed is asked and bool(block_names(folder))
    return replace(format_, blocks=kept)


def fastest_precision() -> Precision:
    """For work in large batches that need not be bit by bit what is served: training."""
    on_cpu = default_device() == "cpu"
    return "bf16" if on_cpu and can_pack(torch.bfloat16) else "auto"


def nf4_config(dtype: torch.dtype) -> BitsAndBytesConfig:
    """4-bit NormalFloat with double quantisation (Dettmers et al., 2023)."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def load_model(folder: Path, format_: WeightFormat) -> LoadedModel:
    """Load a base from a local folder of safetensors.

    Args:
        folder: as ``save_pretrained`` writes it; no pickles, no remote code.
        format_: packing itself is left to who runs the model.

    Raises:
        PackError: the folder holds no model that transformers can read, or its tensors are not
            exactly those of the architecture that its configuration names.
    """
    options: dict[str, Any] = {"dtype": format_.dtype, "device_map": format_.device}
    if format_.quantize == "nf4":
        options["quantization_config"] = nf4_config(format_.dtype)
    # Whatever a file can do to those who read it, safetensors, tokenizers, an architecture.
    told = others_as(
        PackError,
        lambda why: f"base: {folder} cannot be loaded: {why.rstrip('.')}; {advice(folder)}.",
    )
    with quiet_transformers(), told:
        check_sizes(folder)
        tokenizer = read_tokenizer(folder)
        model = load_in_blocks(folder) if format_.blocks else None
        if model is None:
            from transformers import AutoModelForCausalLM  # 100 MB that blocks do not need

            format_ = replace(format_, blocks=False)
            model, info = AutoModelForCausalLM.from_pretrained(
                folder,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # told in ``info``, and refused below in fewer words
                **LOCAL,
                **options,
            )
            check_keys(folder, info, type(model).__name__)
    model.eval().requires_grad_(False)
    check_types(folder, model)
    check_numbers(folder, model, format_.packed)
    model.config.return_dict = True  # what is computed does not depend on it, but how it is named
    return LoadedModel(model, tokenizer, format_)


def check_keys(folder: Path, info: Mapping[str, Any], architecture: str) -> None:
    """Hold a folder's tensors against those of the model that was made for them.

    transformers fills what is missing with random numbers, and drops what is left over; of both it
    only warns: ``info`` is its loading info. Tied weights may be missing, and causal masks left
    over, which old files hold.

    Raises:
        PackError: names the first tensor that is missing, left over, or of another shape.
    """
    shapes = {key: shape for key, (_, shape) in tensor_headers(folder).items()}
    left = [key for key in info["unexpected_keys"] if not _is_mask(key, shapes)]
    for key in sorted(info["missing_keys"]):
        raise PackError(
            f"base: {folder} lacks the tensor '{key}' of {architecture}, which config.json names; "
            "use complete weights of that architecture."
        )
    for key, found, wanted in sorted(info["mismatched_keys"]):
        raise PackError(
            f"base: '{key}' in {folder} has the shape {tuple(found)}, but {tuple(wanted)} by its "
            "config.json; use the config.json that belongs to the weights."
        )
    for key in sorted(left):
        raise PackError(
            f"base: {folder} holds the tensor '{key}', which {architecture} as its config.json "
            "describes it does not have; use the config.json that belongs to the weights."
        )


def _is_mask(key: str, shapes: Mapping[str, Sequence[int]]) -> bool:
    """A causal mask, or the number that it puts where nothing is seen, saved as a tensor."""
    # In a file of a model without its output layer, names begin later than in the whole model.
    own = next((name for name in shapes if f".{key}".endswith(f".{name}")), key)
    shape = list(shapes.get(own, ()))
    if key.endswith("masked_bias"):
        return math.prod(shape) == 1
    square = len(shape) == 4 and shape[:2] == [1, 1] and shape[2] == shape[3]
    return square and key.endswith((".bias", ".causal_mask"))
