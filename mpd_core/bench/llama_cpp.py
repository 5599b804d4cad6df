"""llama.cpp as a competitor, on the very GGUF that the base was converted from (``xllamacpp``).

Optional, and nothing else here needs it. Adapters are written as llama.cpp's own script writes
them. One instruction set should hold for both sides: the wheel's kernels are AVX2's.
"""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray

from mpd_core.bench.peers import Peer
from mpd_core.bench.values import BenchError, Spec, Timing
from mpd_core.models.adapters import load_adapter
from mpd_core.models.sources import fetch_gguf
from mpd_core.packs import GGUFSource, load_pack
from mpd_core.request import GenerationRequest

CONTEXT = 512
"""Tokens of one request, prompt and reply."""
SLOTS = 32
"""Requests at once; more wait."""
HEADS = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}


class LlamaCpp(Peer):
    """A server of llama.cpp in this process, with every adapter loaded and none in use.

    Raises:
        MPDError: why llama.cpp is no peer here.
    """

    def __init__(self, spec: Spec) -> None:
        file = load_pack(spec.source).spec.base.source
        if spec.device != "cpu":
            raise BenchError("it runs on the CPU here")
        if find_spec("xllamacpp") is None:
            raise BenchError("not installed here: pip install xllamacpp")
        if not isinstance(file, GGUFSource):
            raise BenchError("the base was not converted from a GGUF, so llama.cpp has no file")
        super().__init__(spec)
        library: Any = importlib.import_module("xllamacpp")
        self._adapters, params = tuple(self.pack.spec.experts.adapters), library.CommonParams()
        params.model.path = str(fetch_gguf(file, spec.scratch, lambda _: None))
        loras = []
        for name in self._adapters:
            lora = library.CommonAdapterLoraInfo()
            lora.path = str(write_adapter(self.base, name, self.pack.folder / name, spec.scratch))
            lora.scale = 0.0
            loras.append(lora)
        params.lora_adapters, params.lora_init_without_apply = loras, True
        params.n_parallel, params.n_ctx = SLOTS, SLOTS * CONTEXT
        for cpu in (params.cpuparams, params.cpuparams_batch):
            cpu.n_threads = torch.get_num_threads()
        params.verbosity = -1
        self._server = library.Server(params)

    def reply(self, ask: GenerationRequest) -> tuple[list[str], list[float]]:
        """Texts of the tokens, and when each came; one without text of its own with the last."""
        tokens, texts, times = ask.sampling.max_new_tokens, list[str](), list[float]()

        def take(message: Any) -> bool:
            choice = message["choices"][0]
            if choice["text"] or not choice["finish_reason"]:
                texts.append(choice["text"])
                times.append(time.monotonic())
            return False

        # Of a soup its adapters with their weights, and a prompt that says the preference.
        poles = self.spoken(ask)
        lora = [{"id": self._adapters.index(p.name), "scale": 1 / len(poles)} for p in poles]
        prompt = self.ids(ask, poles)[0].tolist()
        asked = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        asked |= {"stream": True, "cache_prompt": False, "lora": lora}
        self._server.handle_completions(asked, take)
        if len(texts) < 2:
            raise BenchError(f"llama.cpp gave {len(texts)} of {tokens} tokens.")
        return texts, [*times, *times[-1:] * (tokens - len(times))][:tokens]


def in_turn(llama: LlamaCpp, asks: Sequence[GenerationRequest], *, slots: int = 1) -> Timing:
    """One request after the other: of the bare base, or soups, for which nothing is merged."""
    start = time.monotonic()
    with ThreadPoolExecutor(slots) as visitors:
        replies = list(visitors.map(llama.reply, asks))
    return Timing(
        [texts for texts, _ in replies], [[when - start for when in times] for _, times in replies]
    )


def together(llama: LlamaCpp, asks: Sequence[GenerationRequest]) -> Timing:
    """All at once, in as many slots as the server has."""
    return in_turn(llama, asks, slots=len(asks))


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
