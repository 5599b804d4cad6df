"""llama.cpp as a competitor, on the very GGUF that the base was converted from (``xllamacpp``).

Optional, and nothing else here needs it. One instruction set should hold for both sides: the
wheel's kernels are AVX2's.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any

import torch

from mpd_core.bench.material import CONTEXT
from mpd_core.bench.peers import Peer
from mpd_core.bench.values import BenchError, Spec, Timing
from mpd_core.models.gguf_adapter import write_adapter
from mpd_core.packs import GGUFSource, load_pack
from mpd_core.request import GenerationRequest
from mpd_core.sources.obtain import fetch_gguf

SLOTS = 32
"""Requests at once; more wait."""


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


def decode(llama: LlamaCpp, asks: Sequence[GenerationRequest], slots: int = 1) -> Timing:
    """Requests in so many slots: of the bare base, or soups, for which nothing is merged."""
    start = time.monotonic()
    with ThreadPoolExecutor(slots) as visitors:
        replies = list(visitors.map(llama.reply, asks))
    return Timing(
        [texts for texts, _ in replies], [[when - start for when in times] for _, times in replies]
    )
