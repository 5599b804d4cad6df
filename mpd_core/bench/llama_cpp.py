"""llama.cpp as a competitor: the same weights, in blocks, without this engine (``xllamacpp``).

Optional, and nothing else here needs it. The base's GGUF is written anew from what the conversion
kept of it, and adapters as llama.cpp's own script writes them. One instruction set should hold for
both sides: the wheel's kernels are AVX2's.
"""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from transformers import AutoTokenizer

from mpd_core.bench.options import BenchError
from mpd_core.bench.schemes import Peer
from mpd_core.bench.values import Ask, Run, Spec
from mpd_core.models.adapters import load_adapter
from mpd_core.models.base import LOCAL
from mpd_core.models.files import BLOCKS, WEIGHTS
from mpd_core.prompts import PromptRenderer

KINDS = {4: gguf.GGMLQuantizationType.Q4_1, 8: gguf.GGMLQuantizationType.Q8_0}
CONTEXT = 512
"""Tokens of one request, prompt and reply."""
SLOTS = 32
"""Requests at once; more wait."""


def why_not(base: Path) -> str | None:
    """What llama.cpp lacks to be a peer on a base; None: nothing."""
    if find_spec("xllamacpp") is None:
        return "not installed here: pip install xllamacpp"
    if not (base / BLOCKS).is_file():
        return "the base was not converted from a GGUF, so llama.cpp has no file"
    return None


class LlamaCppSide(Peer):
    """A server of llama.cpp in this process, with every adapter loaded and none in use."""

    def __init__(self, spec: Spec, slots: int = SLOTS) -> None:
        super().__init__(spec)
        if reason := why_not(self.base):
            raise BenchError(f"llama.cpp: {reason}.")
        library: Any = importlib.import_module("xllamacpp")
        self.adapters = tuple(self.pack.spec.experts.adapters)
        tokenizer = AutoTokenizer.from_pretrained(self.base, **LOCAL)
        self._prompts = PromptRenderer(tokenizer, self.pack.spec.template)
        params = library.CommonParams()
        with TemporaryDirectory(prefix="mpd-gguf-") as scratch:  # read whole before it goes
            params.model.path = str(write_base(self.base, Path(scratch) / "base.gguf"))
            loras = []
            for name in self.adapters:
                lora = library.CommonAdapterLoraInfo()
                folder = self.adapter_folder(name)
                lora.path = str(write_adapter(self.base, name, folder, Path(scratch)))
                lora.scale = 0.0
                loras.append(lora)
            params.lora_adapters, params.lora_init_without_apply = loras, True
            params.n_parallel, params.n_ctx = slots, slots * CONTEXT
            for cpu in (params.cpuparams, params.cpuparams_batch):
                cpu.n_threads = torch.get_num_threads()
            params.verbosity = -1
            self._server = library.Server(params)

    def in_turn(self, asks: tuple[Ask, ...], tokens: int) -> Run:
        """One request after the other: of the bare base, or soups, for which nothing is merged."""
        start = time.monotonic()
        return _run([self._reply(ask, tokens, start) for ask in asks], tokens)

    def together(self, asks: tuple[Ask, ...], tokens: int) -> Run:
        """All at once, in as many slots as the server has."""
        start = time.monotonic()
        with ThreadPoolExecutor(len(asks)) as visitors:
            replies = visitors.map(lambda ask: self._reply(ask, tokens, start), asks)
            return _run(list(replies), tokens)

    def text(self, ask: Ask, tokens: int) -> str:
        """A greedy reply, to compare with the engine's."""
        return "".join(text for text, _ in self._reply(ask, tokens, 0.0))

    def _reply(self, ask: Ask, tokens: int, start: float) -> list[tuple[str, float]]:
        got: list[tuple[str, float]] = []

        def take(message: Any) -> bool:
            choice = message["choices"][0]
            if choice["text"] or not choice["finish_reason"]:
                got.append((choice["text"], time.monotonic() - start))
            return False

        # Of a soup its adapters with their weights, and a prompt that says the preference.
        poles = self.pack.space.parse(ask.preference).poles if ask.method == "soup" else ()
        lora = [{"id": self.adapters.index(p.name), "scale": 1 / len(poles)} for p in poles]
        prompt = self.ids(ask, tuple(pole.instruction for pole in poles))[0].tolist()
        asked = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        asked |= {"stream": True, "cache_prompt": False, "lora": lora}
        self._server.handle_completions(asked, take)
        if len(got) < 2:
            raise BenchError(f"llama.cpp gave {len(got)} of {tokens} tokens.")
        return got


def _run(replies: list[list[tuple[str, float]]], tokens: int) -> Run:
    """Ids are not told. A token without text of its own counts as come with the last."""
    times = [[when for _, when in reply] for reply in replies]
    stamps = tuple(tuple([*own, *own[-1:] * (tokens - len(own))][:tokens]) for own in times)
    return Run(((0,) * tokens,) * len(replies), stamps)


def write_base(base: Path, file: Path) -> Path:
    """A converted base as the GGUF that it was: its blocks, its norms, its words."""
    config = json.loads((base / "config.json").read_text("utf-8"))
    writer = gguf.GGUFWriter(file, "llama")
    _write_settings(writer, config)
    _write_words(writer, json.loads((base / "tokenizer.json").read_text("utf-8")), config)
    with safe_open(base / WEIGHTS, "np") as dense, safe_open(base / BLOCKS, "np") as blocks:
        kept = set(blocks.keys())
        for name in dense.keys():  # noqa: SIM118
            own, order = _place(name, config)
            if f"{name}.codes" not in kept:
                writer.add_tensor(own, order(dense.get_tensor(name)))
                continue
            codes, scales = (blocks.get_tensor(f"{name}.{side}") for side in ("codes", "scales"))
            raw = np.concatenate([scales.view(np.uint8), codes], axis=-1)
            kind = KINDS[codes.shape[-1] // 4]
            writer.add_tensor(own, order(raw.reshape(len(raw), -1)), raw_dtype=kind)
    return _finished(writer, file)


def write_adapter(base: Path, name: str, source: Path, folder: Path) -> Path:
    """A LoRA adapter as llama.cpp reads it, in fp32; its scaling goes into B."""
    config = json.loads((base / "config.json").read_text("utf-8"))
    adapter, file = load_adapter(name, source), folder / f"{name}.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, 0.0)  # then a request's scale is all there is
    for module, (a, b) in adapter.factors.items():
        own, order = _place(f"{module}.weight", config)
        writer.add_tensor(f"{own}.lora_a", a.float().contiguous().numpy())
        writer.add_tensor(f"{own}.lora_b", order((b * adapter.scaling).float().numpy()))
    return _finished(writer, file)


def _finished(writer: gguf.GGUFWriter, file: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _place(name: str, config: dict[str, Any]) -> tuple[str, Callable[[NDArray[Any]], NDArray[Any]]]:
    """A tensor's name in a GGUF, and what brings its rows into llama.cpp's order.

    Of q and k llama.cpp turns pairs of neighbours where transformers turns halves.
    """
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    own = names.get_name(name, try_suffixes=(".weight", ".bias"))
    if own is None:
        raise BenchError(f"llama.cpp has no tensor '{name}'.")
    heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
    key = heads.get(name.split(".")[-2])

    def permuted(rows: NDArray[Any]) -> NDArray[Any]:
        if key:
            halves = rows.reshape(config[key], 2, -1, *rows.shape[1:])
            rows = halves.swapaxes(1, 2).reshape(rows.shape)
        return np.ascontiguousarray(rows)

    return own, permuted


def _write_settings(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    heads = config["num_attention_heads"]
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_rope_dimension_count(config.get("head_dim") or config["hidden_size"] // heads)
    writer.add_vocab_size(config["vocab_size"])


def _write_words(
    writer: gguf.GGUFWriter, tokenizer: dict[str, Any], config: dict[str, Any]
) -> None:
    words = [f"[{index}]" for index in range(config["vocab_size"])]
    kinds = [gguf.TokenType.UNUSED] * len(words)
    for word, index in tokenizer["model"]["vocab"].items():
        words[index], kinds[index] = word, gguf.TokenType.NORMAL
    for added in tokenizer["added_tokens"]:
        words[added["id"]], kinds[added["id"]] = added["content"], gguf.TokenType.CONTROL
    merges = tokenizer["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")  # prompts come as ids: how text is split does not matter
    writer.add_token_list(words)
    writer.add_token_types(kinds)
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(False)
