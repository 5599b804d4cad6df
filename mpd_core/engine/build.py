"""From a pack to the models that a runner needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import torch

from mpd_core.engine import loading
from mpd_core.engine.budget import Need, share_cpu, share_gpu
from mpd_core.engine.plan import ANCHOR, BASE, TRUNK
from mpd_core.engine.preparing import prepare
from mpd_core.engine.runner import KEPT_ROWS, Runner
from mpd_core.engine.status import promise, release, try_out
from mpd_core.models import kernels
from mpd_core.models.adapters import LoraAdapter, load_adapter, lowest_layer
from mpd_core.models.architecture import WINDOW_STEP, row_length
from mpd_core.models.base import LoadedModel, in_blocks, load_model, weight_format
from mpd_core.models.graphs import MOST_GRAPHS
from mpd_core.models.llama import is_llama
from mpd_core.models.pcm import load_head
from mpd_core.models.probe import cached_bytes
from mpd_core.models.rows import RowModel
from mpd_core.packs import Pack, Precision, Quantize
from mpd_core.remote.expert import RemoteExpert
from mpd_core.sources.obtain import obtain

if TYPE_CHECKING:
    from typing_extensions import Unpack


@dataclass(frozen=True)
class EngineInfo:
    """How the engine runs, for people."""

    device: str
    precision: str
    threads: int
    """Of products, and of loops on a CPU."""
    crowd: str
    """What holds of log-probabilities, whoever else is served."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Parts:
    """What an engine is made of."""

    runner: Runner
    remotes: Mapping[str, RemoteExpert]
    tokenizer: Any
    info: EngineInfo


@dataclass(frozen=True)
class _Lane:
    """What a row model is made of."""

    loaded: LoadedModel
    adapters: list[LoraAdapter]
    rows: int
    """That one request can have there at most."""
    layers: range | None = None


class EngineOptions(TypedDict, total=False):
    """How an engine is opened; what is left out, or None, is the pack's."""

    quantize: Quantize | None
    """Overrides the pack's ``base.quantize``."""
    precision: Precision | None
    """Overrides the pack's ``base.precision``."""
    device: str | None
    """``cpu`` or ``cuda``; default: a GPU where there is one."""
    kept_rows: int
    """Of each model, to keep of ended requests, for those that begin alike."""
    warm: bool
    """Whether what all prompts begin with is read before the first one comes, on a CPU."""
    compile_apart: bool
    """Whether a process of its own may compile loops that are not on disk yet: this one stays as
    small as it is when they are. For programs; a library starts no processes by itself."""
    progress: Callable[[str], None]
    """Is told in sentences what is being done."""


def build(pack: Pack, **options: Unpack[EngineOptions]) -> Parts:
    """Obtain and load a pack's models.

    Raises:
        ModelSourceError: a model cannot be obtained.
        PackError: a model, an adapter or the head does not fit.
        RequestError: a device or a precision that this machine does not have.
        EngineError: a remote expert whose address or key cannot be used.
    """
    if unknown := options.keys() - EngineOptions.__annotations__.keys():
        raise TypeError(f"An engine has no option '{min(unknown)}'.")
    quantize, device = options.get("quantize"), options.get("device")
    kept_rows = options.get("kept_rows", KEPT_ROWS)
    progress: Callable[[str], None] = options.get("progress", lambda _: None)
    spec = pack.spec.base
    precision = options.get("precision") or spec.precision
    format_ = weight_format(device, quantize or spec.quantize, precision)
    loading.remotes(pack, 0, keep=False)  # what can be refused now should not wait for gigabytes
    folder = obtain(pack, spec.source, progress=progress)
    format_ = in_blocks(format_, precision, folder)
    if format_.device == "cpu":
        progress("Preparing loops for this CPU: some seconds the first time, then none.")
        in_whole_numbers = format_.blocks or format_.packed is torch.int8
        prepare(blocks=in_whole_numbers, apart=options.get("compile_apart", False))
        if not kernels.HAS_OPENMP:
            progress("OpenMP's library is missing (Debian: libgomp1): loops run on one core.")
    loading.check_prompts(pack, folder)
    progress(f"Loading {spec.name} on {format_.device}, {format_}.")
    base = load_model(folder, format_)
    lanes = _lanes(pack, base, precision, progress)
    head = pack.spec.pcm.head
    width = lanes.get("pcm", lanes["base"]).hidden_size
    file = pack.path(head.file) if head else None
    weight_head = load_head(width, len(pack.space.poles), file)
    runner = Runner(lanes, weight_head, kept_rows=kept_rows)
    remotes = loading.remotes(pack, lanes["base"].vocab_size)
    threads, crowd = torch.get_num_threads(), promise(lanes)
    release()
    slow = base.format.quantize == "nf4" and base.format.device == "cpu"
    notes = ("4-bit weights on a CPU save memory but are slower than the default.",) if slow else ()
    info = EngineInfo(format_.device, str(base.format), threads, crowd, notes)
    return Parts(runner, remotes, base.tokenizer, info)


def _lanes(
    pack: Pack, base: LoadedModel, precision: Precision, progress: Callable[[str], None]
) -> dict[str, RowModel]:
    experts, pcm = pack.spec.experts, pack.spec.pcm
    others = {
        name: loading.other_expert(pack, name, s, base, precision, progress)
        for name, s in experts.checkpoints.items()
    }
    adapters = [load_adapter(n, pack.path(s.folder)) for n, s in experts.adapters.items()]
    if experts.anchor:
        adapters.append(load_adapter(ANCHOR, pack.path(experts.anchor.folder)))
    own = [load_adapter("pcm", pack.path(pcm.adapter.folder))] if pcm.adapter else []
    sizes = [model.config.vocab_size for model in (base, *others.values())]
    made = {name: _Lane(model, [], rows=1) for name, model in others.items()}
    experts_at_once = len(pack.space.dimensions) + (2 if experts.anchor else 1)  # and anchors
    if pcm.backbone == "base":
        made |= _base_lanes(base, [*adapters, *own], experts_at_once + 1)
    else:
        made |= _base_lanes(base, adapters, experts_at_once)
        made["pcm"] = _Lane(loading.backbone(pack, pcm.backbone, base, progress), own, rows=1)
    lanes = _row_models(pack, made)
    for name, lane in lanes.items():
        if name != "pcm" or pcm.backbone == "base":
            lane.vocab_size = min(sizes)  # some models pad theirs; what pads is never a token
        try_out(lane, reads_states=name == BASE and TRUNK in lanes)
    return lanes


def _base_lanes(base: LoadedModel, adapters: list[LoraAdapter], rows: int) -> dict[str, _Lane]:
    """The base, in two parts where no adapter touches its lower layers.

    Rows that read the same text are alike in those, so a request runs them once for all of its
    experts: the trunk, which comes first and which the upper part reads from.
    """
    count = base.config.num_hidden_layers
    first = lowest_layer(adapters, count)
    if not (0 < first < count and is_llama(base.model)):
        return {BASE: _Lane(base, adapters, rows)}
    return {
        TRUNK: _Lane(base, [], rows, range(first)),
        BASE: _Lane(base, adapters, rows, range(first, count)),
    }


def _row_models(pack: Pack, made: Mapping[str, _Lane]) -> dict[str, RowModel]:
    context, needs = pack.spec.decode.context, {}
    for name, lane in made.items():
        with loading.told_of(pack, name):
            needs[name] = _need(lane, context)
    device = next(iter(made.values())).loaded.model.device
    on_gpu = device.type == "cuda"
    free = torch.cuda.mem_get_info(device)[0] if on_gpu else 0
    shares = share_gpu(free, needs) if on_gpu else share_cpu(needs)
    models = {}
    for name, lane in made.items():
        with loading.told_of(pack, name):
            models[name] = RowModel(
                lane.loaded.model,
                lane.adapters,
                capacity=shares[name].rows,
                length=context,
                budget=shares[name].tokens,
                packed=lane.loaded.format.packed,
                layers=lane.layers,
            )
    return models


def _need(lane: _Lane, context: int) -> Need:
    model, config = lane.loaded.model, lane.loaded.config
    count = config.num_hidden_layers
    share = len(lane.layers or range(count))
    size, length = model.dtype.itemsize, row_length(config, context) + WINDOW_STEP
    step = 0
    if model.device.type == "cuda" and is_llama(model):
        between = 8 * config.hidden_size + 3 * config.intermediate_size
        scores = 4 * config.num_attention_heads * length
        step = (between + MOST_GRAPHS * config.hidden_size) * size + scores
    return Need(lane.rows, length, cached_bytes(model) * share // count, step)
