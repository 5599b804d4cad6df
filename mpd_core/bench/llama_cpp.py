"""llama.cpp as a competitor: the same weights, in blocks, without this engine (``xllamacpp``).

Optional: ``pip install xllamacpp`` is all it takes, and nothing else here needs it. The base's
GGUF is written anew from what the conversion kept of it, and adapters as llama.cpp's own script
writes them. One instruction set should hold for both sides: the wheel's kernels are AVX2's.
"""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor
from transformers import AutoTokenizer

from mpd_core.bench.options import BenchError
from mpd_core.bench.schemes import Peer
from mpd_core.bench.values import Ask, Run, Spec
from mpd_core.models.adapters import load_adapter
from mpd_core.models.base import LOCAL
from mpd_core.models.files import BLOCKS, WEIGHTS
from mpd_core.prompts import PromptRenderer

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
"""Of a LLaMA's layers, here and in a GGUF."""
WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
KINDS = {4: gguf.GGMLQuantizationType.Q4_1, 8: gguf.GGMLQuantizationType.Q8_0}
CONTEXT = 512
"""Tokens of one request, prompt and reply."""


class LlamaCppSide(Peer):
    """A server of llama.cpp in this process, with every adapter loaded and none in use."""

    def __init__(self, spec: Spec, slots: int = 1) -> None:
        super().__init__(spec)
        try:
            library: Any = importlib.import_module("xllamacpp")
        except ImportError as error:
            raise BenchError("llama.cpp is not here: pip install xllamacpp.") from error
        self.adapters = tuple(self.pack.spec.experts.adapters)
        tokenizer = AutoTokenizer.from_pretrained(self.base, **LOCAL)
        self._prompts = PromptRenderer(tokenizer, self.pack.spec.template)
        if not (self.base / BLOCKS).is_file():
            raise BenchError(f"{self.base} was not converted from a GGUF: llama.cpp has no file.")
        params = library.CommonParams()
        with TemporaryDirectory(prefix="mpd-gguf-") as scratch:  # read whole before it goes
            params.model.path = str(write_base(self.base, Path(scratch) / "base.gguf"))
            params.lora_adapters = [
                self._lora(library, name, Path(scratch)) for name in self.adapters
            ]
            params.lora_init_without_apply = True
            params.n_parallel, params.n_ctx = slots, slots * CONTEXT
            for cpu in (params.cpuparams, params.cpuparams_batch):
                cpu.n_threads = torch.get_num_threads()
            params.verbosity = -1
            self._server = library.Server(params)

    def _lora(self, library: Any, name: str, folder: Path) -> Any:
        adapter = library.CommonAdapterLoraInfo()
        adapter.path = str(write_adapter(self.base, name, self.adapter_folder(name), folder))
        adapter.scale = 0.0
        return adapter

    def in_turn(self, asks: tuple[Ask, ...], tokens: int) -> Run:
        """One request after the other: of the bare base, or soups, for which nothing is merged."""
        start = time.monotonic()
        return self._run([self._reply(ask, tokens, start) for ask in asks])

    def together(self, asks: tuple[Ask, ...], tokens: int) -> Run:
        """All at once, in as many slots as the server has."""
        start = time.monotonic()
        with ThreadPoolExecutor(len(asks)) as visitors:
            return self._run(list(visitors.map(lambda a: self._reply(a, tokens, start), asks)))

    def texts(self, asks: tuple[Ask, ...], tokens: int) -> list[str]:
        """Greedy replies, to compare with the engine's."""
        return ["".join(text for text, _ in self._reply(ask, tokens, 0.0)) for ask in asks]

    def _soup(self, ask: Ask) -> tuple[list[dict[str, float]], tuple[str, ...]]:
        """Its adapters with their weights, and what the prompt says of the preference."""
        poles = self.pack.space.parse(ask.preference).poles if ask.method == "soup" else ()
        shares = [{"id": self.adapters.index(p.name), "scale": 1 / len(poles)} for p in poles]
        return shares, tuple(pole.instruction for pole in poles)

    def _reply(self, ask: Ask, tokens: int, start: float) -> list[tuple[str, float]]:
        got: list[tuple[str, float]] = []

        def take(message: Any) -> bool:
            if not message["choices"][0]["finish_reason"]:
                got.append((message["choices"][0]["text"], time.monotonic() - start))
            return False

        lora, spoken = self._soup(ask)
        prompt = self.ids(ask, spoken)[0].tolist()
        asked = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        asked |= {"stream": True, "cache_prompt": False, "lora": lora}
        self._server.handle_completions(asked, take)
        if len(got) < 2:
            raise BenchError(f"llama.cpp gave {len(got)} of {tokens} tokens.")
        return got

    def _run(self, replies: list[list[tuple[str, float]]]) -> Run:
        """A token may have no text of its own: ids are not told, and not compared."""
        times = tuple(tuple(when for _, when in reply) for reply in replies)
        return Run(tuple((0,) * len(reply) for reply in times), times)


def write_base(base: Path, file: Path) -> Path:
    """A converted base as the GGUF that it was: its blocks, its norms, its words."""
    config = json.loads((base / "config.json").read_text("utf-8"))
    writer = gguf.GGUFWriter(file, "llama")
    _write_settings(writer, config)
    _write_words(writer, json.loads((base / "tokenizer.json").read_text("utf-8")), config)
    with safe_open(base / WEIGHTS, "np") as dense, safe_open(base / BLOCKS, "np") as blocks:
        kept = set(blocks.keys())
        for name in dense.keys():  # noqa: SIM118
            own, order = _own_name(name), _order(name, config)
            if f"{name}.codes" in kept:
                codes, scales = (
                    blocks.get_tensor(f"{name}.{side}") for side in ("codes", "scales")
                )
                raw = np.concatenate([scales.view(np.uint8), codes], axis=-1)
                kind = KINDS[codes.shape[-1] // 4]
                writer.add_tensor(own, order(raw.reshape(len(raw), -1)), raw_dtype=kind)
            else:
                writer.add_tensor(own, order(dense.get_tensor(name)))
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
        own, order = _own_name(f"{module}.weight"), _order(f"{module}.weight", config)
        writer.add_tensor(f"{own}.lora_a", _numbers(a))
        writer.add_tensor(f"{own}.lora_b", order(_numbers(b * adapter.scaling)))
    return _finished(writer, file)


def _numbers(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.float().contiguous().numpy()


def _finished(writer: gguf.GGUFWriter, file: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _own_name(name: str) -> str:
    module, _, last = name.rpartition(".")
    if module in WHOLE:
        return f"{WHOLE[module]}.{last}"
    _, _, layer, *rest = module.split(".")
    return f"blk.{layer}.{NAMES['.'.join(rest)]}.{last}"


def _order(name: str, config: dict[str, Any]) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """llama.cpp turns pairs of neighbours where transformers turns halves: q's and k's rows."""
    heads = {
        "self_attn.q_proj.weight": config["num_attention_heads"],
        "self_attn.k_proj.weight": config["num_key_value_heads"],
    }
    count = next((n for end, n in heads.items() if name.endswith(end)), None)
    if count is None:
        return np.ascontiguousarray

    def permuted(rows: NDArray[Any]) -> NDArray[Any]:
        halves = rows.reshape(count, 2, -1, *rows.shape[1:])
        return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows.shape))

    return permuted


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
