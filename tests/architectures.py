"""Tiny random models of many architectures, and what the engine must make of each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from mpd_core.errors import PackError
from mpd_core.models.rows import RowModel

VOCABULARY = 120
WINDOW = 8
CONTEXT = 128
LENGTHS = (60, 33)
"""Of two texts, several windows long."""
STEPS = 3
"""Tokens at their ends that are read one by one."""

COMMON = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
LLAMA = {
    **COMMON,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
}
HEADS = {**LLAMA, "head_dim": 16}
LOCAL = {**HEADS, "sliding_window": WINDOW}
GPT = {**COMMON, "n_embd": 64, "n_layer": 4, "n_head": 4, "n_positions": 256}
GPT |= {"initializer_range": 0.3}
NEOX = {name: value for name, value in LLAMA.items() if name != "num_key_value_heads"}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2}
EXPERTS |= {"moe_intermediate_size": 32, "n_routed_experts": 4, "n_group": 1, "topk_group": 1}
OPT = {**COMMON, "hidden_size": 64, "word_embed_proj_dim": 32, "ffn_dim": 96}
OPT |= {"num_hidden_layers": 4, "num_attention_heads": 4, "init_std": 0.3}
FALCON = {**COMMON, "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
FALCON |= {"initializer_range": 0.3}
MLA = {"kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8}
MLA |= {"v_head_dim": 16, "head_dim": 8, "first_k_dense_replace": 1}
MIXED = ["sliding_attention", "full_attention"] * 2
PER_LAYER = {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCABULARY}
PER_LAYER |= {"num_kv_shared_layers": 2}


def rope(kind: str, **options: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **options}}


LONG_FACTORS = {"short_factor": [1.0] * 8, "long_factor": [4.0] * 8}

RIGHT: dict[str, tuple[str, dict[str, Any]]] = {
    "LLaMA": ("llama", LLAMA),
    "LLaMA, biases": ("llama", {**LLAMA, "attention_bias": True, "mlp_bias": True}),
    "LLaMA, wide heads": ("llama", {**LLAMA, "head_dim": 32}),
    "LLaMA, tied": ("llama", {**LLAMA, "tie_word_embeddings": True}),
    "LLaMA, GELU": ("llama", {**LLAMA, "hidden_act": "gelu"}),
    "LLaMA, linear rope": ("llama", {**LLAMA, **rope("linear", factor=4.0)}),
    "LLaMA, dynamic rope": ("llama", {**LLAMA, **rope("dynamic", factor=4.0)}),
    "LLaMA, YaRN": (
        "llama",
        {**LLAMA, **rope("yarn", factor=4.0, original_max_position_embeddings=64)},
    ),
    "Llama 3": (
        "llama",
        {
            **LLAMA,
            **rope(
                "llama3",
                factor=8.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=64,
            ),
        },
    ),
    "Llama 4 (chunks)": (
        "llama4_text",
        {**HEADS, **EXPERTS, "attention_chunk_size": WINDOW, "intermediate_size_mlp": 96},
    ),
    "Llama 4, scaled beyond the context": (
        "llama4_text",
        {**HEADS, **EXPERTS, "attention_chunk_size": WINDOW, "intermediate_size_mlp": 96}
        | {"no_rope_layers": [1, 0, 1, 0], "floor_scale": CONTEXT + 1},
    ),
    "Mistral": ("mistral", {**HEADS, "sliding_window": None}),
    "Mistral, window": ("mistral", LOCAL),
    "Ministral, window": ("ministral", LOCAL),
    "Mixtral, window": ("mixtral", {**LOCAL, **EXPERTS}),
    "Qwen2": ("qwen2", LLAMA),
    "Qwen2, window in upper layers": (
        "qwen2",
        {**LOCAL, "use_sliding_window": True, "max_window_layers": 2},
    ),
    "Qwen2-MoE": ("qwen2_moe", {**LLAMA, **EXPERTS, "shared_expert_intermediate_size": 32}),
    "Qwen3": ("qwen3", HEADS),
    "Qwen3, layers by type": (
        "qwen3",
        {**LOCAL, "use_sliding_window": True, "layer_types": MIXED},
    ),
    "Qwen3-MoE": ("qwen3_moe", {**HEADS, **EXPERTS}),
    "Phi": ("phi", LLAMA),
    "Phi-3, window": ("phi3", LOCAL),
    "Phi-3, long rope, short text": (
        "phi3",
        {**HEADS, **rope("longrope", **LONG_FACTORS), "original_max_position_embeddings": CONTEXT},
    ),
    "PhiMoE, window": ("phimoe", {**LOCAL, **EXPERTS}),
    "Gemma": ("gemma", HEADS),
    "Gemma 2 (windows, capped logits)": ("gemma2", {**LOCAL, "layer_types": MIXED}),
    "Gemma 3 (windows)": ("gemma3_text", {**LOCAL, "layer_types": MIXED}),
    "Gemma 3n (layers that share keys)": (
        "gemma3n_text",
        {**LOCAL, **PER_LAYER, "layer_types": MIXED, "laurel_rank": 8, "altup_num_inputs": 2}
        | {"activation_sparsity_pattern": [0.0] * 4},
    ),
    "Gemma 4 (heads of two widths)": (
        "gemma4_text",
        {**LOCAL, **PER_LAYER, "layer_types": MIXED, "global_head_dim": 32},
    ),
    "gpt-oss (windows, sinks)": ("gpt_oss", {**LOCAL, **EXPERTS, "layer_types": MIXED}),
    "Cohere (scaled logits)": ("cohere", {**LLAMA, "logit_scale": 0.5}),
    "Cohere 2 (windows)": ("cohere2", {**LOCAL, "logit_scale": 0.5, "layer_types": MIXED}),
    "OLMo": ("olmo", LLAMA),
    "OLMo 2": ("olmo2", LLAMA),
    "OLMo 3 (windows)": ("olmo3", {**LOCAL, "layer_types": MIXED}),
    "OLMoE": ("olmoe", {**LLAMA, **EXPERTS}),
    "SmolLM3 (layers without positions)": ("smollm3", {**LLAMA, "no_rope_layers": [1, 0, 1, 0]}),
    "EXAONE 4 (windows)": ("exaone4", {**LOCAL, "layer_types": MIXED}),
    "Granite": ("granite", {**LLAMA, "logits_scaling": 4.0, "attention_multiplier": 0.25}),
    "GLM-4": ("glm4", HEADS),
    "ERNIE 4.5": ("ernie4_5", HEADS),
    "Nemotron": ("nemotron", HEADS),
    "StableLM": ("stablelm", LLAMA),
    "StarCoder2, window": ("starcoder2", LOCAL),
    "DeepSeek-V2 (latent attention)": ("deepseek_v2", {**LLAMA, **EXPERTS, **MLA}),
    "DeepSeek-V3": ("deepseek_v3", {**LLAMA, **EXPERTS, **MLA}),
    "GPT-2": ("gpt2", GPT),
    "GPT-BigCode (one key head)": ("gpt_bigcode", GPT),
    "GPT-J": ("gptj", {**GPT, "rotary_dim": 8}),
    "CodeGen": ("codegen", {**GPT, "rotary_dim": 8}),
    "GPT-NeoX": ("gpt_neox", NEOX),
    "OPT, projected embedding": ("opt", OPT),
    "Falcon": ("falcon", {**FALCON, "alibi": False}),
    "Falcon, ALiBi": ("falcon", {**FALCON, "alibi": True}),
    "Falcon, new decoder": (
        "falcon",
        {**FALCON, "alibi": False, "new_decoder_architecture": True, "num_kv_heads": 2},
    ),
    "BLOOM (ALiBi)": ("bloom", {**GPT, "hidden_size": 64}),
    "MPT (ALiBi)": (
        "mpt",
        {**COMMON, "d_model": 64, "n_heads": 4, "n_layers": 4, "max_seq_len": 256}
        | {"initializer_range": 0.3},
    ),
    "MPT, a scale of logits that it does not read": (
        "mpt",
        {**COMMON, "d_model": 64, "n_heads": 4, "n_layers": 4, "max_seq_len": 256}
        | {"initializer_range": 0.3, "logit_scale": "inv_sqrt_d_model"},
    ),
}
"""Computed as transformers computes it; by name, its ``model_type`` and settings."""

REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "GPT-Neo": (
        "gpt_neo",
        {**COMMON, "hidden_size": 64, "num_layers": 2, "num_heads": 4, "window_size": WINDOW}
        | {"attention_types": [[["global", "local"], 1]], "max_position_embeddings": 256},
        "attention in code of its own",
    ),
    "XGLM": (
        "xglm",
        {**COMMON, "d_model": 64, "num_layers": 2, "attention_heads": 4, "ffn_dim": 96},
        "attention in code of its own",
    ),
    "Mamba (no attention)": (
        "mamba",
        {**COMMON, "hidden_size": 64, "num_hidden_layers": 2, "initializer_range": 0.3},
        "cannot be run here",
    ),
    "Mamba 2": (
        "mamba2",
        {**COMMON, "hidden_size": 64, "num_hidden_layers": 2, "num_heads": 8, "head_dim": 16}
        | {"expand": 2, "state_size": 16, "n_groups": 1},
        "cannot be run here",
    ),
    "Qwen3-Next (linear attention)": ("qwen3_next", {**HEADS, **EXPERTS}, "cannot be run here"),
    "LFM2 (convolutions)": (
        "lfm2",
        {**LLAMA, "layer_types": ["conv", "full_attention"] * 2},
        "cannot be run here",
    ),
    "Phi-3, long rope, long text": (
        "phi3",
        {**HEADS, **rope("longrope", **LONG_FACTORS), "original_max_position_embeddings": 64},
        "set it to at most 64",
    ),
    "Llama 4, attention scaled by position": (
        "llama4_text",
        {**HEADS, **EXPERTS, "attention_chunk_size": WINDOW, "intermediate_size_mlp": 96}
        | {"no_rope_layers": [1, 0, 1, 0], "floor_scale": 64},
        "set it to at most 63",
    ),
    "LLaMA, looking ahead": ("llama", {**LLAMA, "is_causal": False}, "gives other states"),
    "BERT as a decoder": (
        "bert",
        {**NEOX, "is_decoder": True},
        "changes its states before the output layer",
    ),
    "BART (counts positions itself)": (
        "bart",
        {**COMMON, "d_model": 64, "decoder_layers": 2, "decoder_attention_heads": 4}
        | {"decoder_ffn_dim": 96, "is_decoder": True, "init_std": 0.3},
        "BartForCausalLM",
    ),
}
"""Refused; by name, its ``model_type``, settings, and a part of the sentence."""


def make_model(kind: str, settings: dict[str, Any]) -> Any:
    """A random model, sharp enough that another mask gives other words."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings))
    for name, parameter in model.named_parameters():
        if "sinks" in name:  # made empty: only weights from a file are meant to be there
            torch.nn.init.normal_(parameter)
    return model.eval()


def largest_difference(model: Any, **options: Any) -> float:
    """Between log-probabilities in rows of two texts, and of each text by transformers alone.

    Raises:
        PackError: the architecture is refused.
    """
    generator = torch.Generator().manual_seed(1)
    texts = [torch.randint(3, VOCABULARY, (n,), generator=generator) for n in LENGTHS]
    with torch.inference_mode():
        wanted = [model(text[None]).logits[0].log_softmax(-1) for text in texts]
    rows = RowModel(model, [], capacity=4, length=CONTEXT, **options)
    found = _read_rows(rows, texts)
    return max(float((a - b).abs().max()) for a, b in zip(found, wanted, strict=True))


def _read_rows(rows: RowModel, texts: list[Tensor]) -> list[Tensor]:
    """Prompts in two pieces, then both rows' last tokens one by one."""
    ends = [len(text) - STEPS for text in texts]
    prompts = torch.nn.utils.rnn.pad_sequence(
        [text[:end] for text, end in zip(texts, ends, strict=True)], batch_first=True
    )
    places, none = torch.arange(prompts.shape[1]).expand_as(prompts), [()] * len(texts)
    pieces = [
        rows.log_probs(rows.forward(prompts[:, part], places[:, part], 0, none), none)
        for part in (slice(20), slice(20, None))
    ]
    read = torch.cat(pieces, dim=1)
    found = [[*row[:end]] for row, end in zip(read, ends, strict=True)]
    for step in range(STEPS):
        last = torch.stack([text[end + step][None] for text, end in zip(texts, ends, strict=True)])
        now = torch.tensor([[end + step] for end in ends])
        for row, state in zip(
            found, rows.log_probs(rows.forward(last, now, 0, none), none), strict=True
        ):
            row.append(state[0])
    return [torch.stack(row) for row in found]


def table() -> str:
    """What this machine makes of each, as Markdown."""
    lines = ["| Architecture | `model_type` | Result |", "|---|---|---|"]
    for name, (kind, settings) in RIGHT.items():
        difference = largest_difference(make_model(kind, settings))
        lines.append(f"| {name} | `{kind}` | right, to {difference:.0e} |")
    for name, (kind, settings, _) in REFUSED.items():
        try:
            largest_difference(make_model(kind, settings))
        except PackError as error:
            lines.append(f"| {name} | `{kind}` | refused: {error} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
