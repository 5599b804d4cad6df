"""From a pack to the models that a runner needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from mpd_core.engine.runner import Runner
from mpd_core.errors import PackError
from mpd_core.models.adapters import LoraAdapter, load_adapter
from mpd_core.models.base import LoadedModel, WeightFormat, load_model, weight_format
from mpd_core.models.pcm import load_head
from mpd_core.models.rows import RowModel
from mpd_core.models.sources import obtain
from mpd_core.packs import Pack, Precision, Quantize

CPU_CACHE_BYTES = 4 * 2**30
GPU_CACHE_SHARE = 0.6
MAX_ROWS = 128


@dataclass(frozen=True)
class EngineInfo:
    """How the engine runs, for people."""

    device: str
    precision: str
    notes: tuple[str, ...] = ()


def build(
    pack: Pack,
    *,
    quantize: Quantize | None = None,
    precision: Precision | None = None,
    device: str | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[Runner, Any, EngineInfo]:
    """Obtain and load a pack's models.

    Returns:
        The runner, the base's tokenizer, and a description.

    Raises:
        ModelSourceError: a model cannot be obtained.
        PackError: a model, an adapter or the head does not fit.
        RequestError: a device or a precision that this machine does not have.
    """
    spec = pack.spec.base
    format_ = weight_format(device, quantize or spec.quantize, precision or spec.precision)
    folder = obtain(pack, spec.source, progress=progress)
    progress(f"Loading {spec.name} on {format_.device}, {format_}.")
    base = load_model(folder, format_)
    adapters = [
        load_adapter(name, pack.path(spec.folder))
        for name, spec in pack.spec.experts.adapters.items()
    ]
    lanes = _lanes(pack, base, adapters, progress)
    head = pack.spec.pcm.head
    file = pack.path(head.file) if head else None
    runner = Runner(lanes, load_head(lanes[-1].hidden_size, len(pack.space.poles), file))
    return runner, base.tokenizer, EngineInfo(format_.device, str(format_), _notes(format_))


def _lanes(
    pack: Pack,
    base: LoadedModel,
    adapters: list[LoraAdapter],
    progress: Callable[[str], None],
) -> tuple[RowModel, ...]:
    pcm = pack.spec.pcm
    own = [load_adapter("pcm", pack.path(pcm.adapter.folder))] if pcm.adapter else []
    length = pack.spec.decode.context
    if pcm.backbone == "base":
        return (_row_model(base, adapters + own, length),)
    folder = obtain(pack, pcm.backbone, progress=progress)
    progress("Loading the Preference Control Model's backbone.")
    backbone = load_model(folder, weight_format(base.format.device))
    missing = len(base.tokenizer) - backbone.model.config.vocab_size
    if missing > len(base.tokenizer.added_tokens_decoder):
        raise PackError(
            f"pcm.backbone: its vocabulary lacks {missing} tokens of the base's tokenizer; "
            "use a backbone with the same tokenizer."
        )
    return _row_model(base, adapters, length), _row_model(backbone, own, length)


def _row_model(loaded: LoadedModel, adapters: list[LoraAdapter], length: int) -> RowModel:
    model, config = loaded.model, loaded.model.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    row_bytes = 2 * config.num_hidden_layers * heads * width * length * model.dtype.itemsize
    rows = min(MAX_ROWS, max(8, _cache_bytes(model) // row_bytes))
    packed = loaded.format.packed
    return RowModel(model, adapters, capacity=rows, length=length, packed=packed)


def _cache_bytes(model: Any) -> int:
    if model.device.type != "cuda":
        return CPU_CACHE_BYTES
    free, _ = torch.cuda.mem_get_info(model.device)
    return int(free * GPU_CACHE_SHARE)


def _notes(format_: WeightFormat) -> tuple[str, ...]:
    if format_.quantize == "nf4" and format_.device == "cpu":
        return ("4-bit weights on a CPU save memory but are slower than the default.",)
    return ()
