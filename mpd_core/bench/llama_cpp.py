"""llama.cpp as a competitor, on the very GGUF that the base was converted from (``xllamacpp``).

Optional, and nothing else here needs it. Adapters are written as llama.cpp's own script writes
them. One instruction set should hold for both sides: the wheel's kernels are AVX2's.
"""

from __future__ import annotations

import importlib
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer

from mpd_core.bench.options import BenchError
from mpd_core.bench.schemes import Peer
from mpd_core.bench.values import Query, Spec, Timing
from mpd_core.models.adapters import load_adapter
from mpd_core.models.base import LOCAL
from mpd_core.prompts import PromptRenderer

CONTEXT = 512
"""Tokens of one request, prompt and reply."""
SLOTS = 32
"""Requests at once; more wait."""
HEADS = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}

TimedTexts = list[tuple[str, float]]
"""Texts of one request's tokens, and when each came."""


class LlamaCppSide(Peer):
    """A server of llama.cpp in this process, with every adapter loaded and none in use."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        library: Any = importlib.import_module("xllamacpp")
        self._adapters = tuple(self.pack.spec.experts.adapters)
        tokenizer = AutoTokenizer.from_pretrained(self.base, **LOCAL)
        self.prompts = PromptRenderer(tokenizer, self.pack.spec.template)
        params = library.CommonParams()
        params.model.path = str(spec.gguf)
        with TemporaryDirectory(prefix="mpd-gguf-") as scratch:  # read whole before it goes
            loras = []
            for name in self._adapters:
                lora = library.CommonAdapterLoraInfo()
                folder = self.adapter_folder(name)
                lora.path = str(write_adapter(self.base, name, folder, Path(scratch)))
                lora.scale = 0.0
                loras.append(lora)
            params.lora_adapters, params.lora_init_without_apply = loras, True
            params.n_parallel, params.n_ctx = SLOTS, SLOTS * CONTEXT
            for cpu in (params.cpuparams, params.cpuparams_batch):
                cpu.n_threads = torch.get_num_threads()
            params.verbosity = -1
            self._server = library.Server(params)

    def in_turn(self, asks: tuple[Query, ...], tokens: int) -> Timing:
        """One request after the other: of the bare base, or soups, for which nothing is merged."""
        start = time.monotonic()
        return _run([self._reply(ask, tokens, start) for ask in asks], tokens)

    def together(self, asks: tuple[Query, ...], tokens: int) -> Timing:
        """All at once, in as many slots as the server has."""
        start = time.monotonic()
        with ThreadPoolExecutor(len(asks)) as visitors:
            replies = visitors.map(lambda ask: self._reply(ask, tokens, start), asks)
            return _run(list(replies), tokens)

    def text(self, ask: Query, tokens: int) -> str:
        """A greedy reply, to compare with the engine's."""
        return "".join(text for text, _ in self._reply(ask, tokens, 0.0))

    def _reply(self, ask: Query, tokens: int, start: float) -> TimedTexts:
        got: TimedTexts = []

        def take(message: Any) -> bool:
            choice = message["choices"][0]
            if choice["text"] or not choice["finish_reason"]:
                got.append((choice["text"], time.monotonic() - start))
            return False

        # Of a soup its adapters with their weights, and a prompt that says the preference.
        poles = self.poles(ask) if ask.method == "soup" else ()
        lora = [{"id": self._adapters.index(p.name), "scale": 1 / len(poles)} for p in poles]
        prompt = self.ids(ask, tuple(pole.instruction for pole in poles))[0].tolist()
        asked = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        asked |= {"stream": True, "cache_prompt": False, "lora": lora}
        self._server.handle_completions(asked, take)
        if len(got) < 2:
            raise BenchError(f"llama.cpp gave {len(got)} of {tokens} tokens.")
        return got


def _run(replies: list[TimedTexts], tokens: int) -> Timing:
    """Ids are not told. A token without text of its own counts as come with the last."""
    times = [[when for _, when in reply] for reply in replies]
    stamps = tuple(tuple([*own, *own[-1:] * (tokens - len(own))][:tokens]) for own in times)
    return Timing(((0,) * tokens,) * len(replies), stamps)


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
