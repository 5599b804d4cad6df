"""Adapters of every kind that PEFT makes or people have lying around."""

from __future__ import annotations

from typing import Any

import peft
import torch

from mpd_core.models.adapter_config import CONFIG_FILE
from mpd_core.models.adapters import WEIGHTS_FILE
from tests.adapter_edits import (
    Kind,
    configured,
    narrowed,
    poked,
    renamed,
    retyped,
    weighed,
    written,
)

QV = ["q_proj", "v_proj", "down_proj"]
PREFIX = "base_model.model."


def _on(targets: Any = tuple(QV), **options: Any) -> dict[str, Any]:
    names = list(targets) if isinstance(targets, tuple) else targets
    return {"r": 4, "lora_alpha": 8, "target_modules": names, **options}


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
SAVE_ALL = {"save_embedding_layers": True}
SAVE_NONE = {"save_embedding_layers": False}
Q = "model.layers.0.self_attn.q_proj"

COMPUTED = [
    Kind("plain LoRA", _on()),
    Kind("use_rslora", _on(use_rslora=True)),
    Kind("rank_pattern", _on(rank_pattern={"q_proj": 8, r"layers\.1\..*down_proj": 2})),
    Kind("alpha_pattern", _on(alpha_pattern={"q_proj": 32, "^model.layers.1.mlp.down_proj": 1})),
    Kind("alpha_pattern, lora_alpha 0", _on(alpha_pattern={"q_proj": 8}, lora_alpha=0)),
    Kind(
        "both patterns, use_rslora",
        _on(rank_pattern={"q_proj": 8}, alpha_pattern={"v_proj": 3}, use_rslora=True),
    ),
    Kind('target_modules "all-linear"', _on("all-linear")),
    Kind('"all-linear", as written', _on("all-linear"), configured(target_modules="all-linear")),
    Kind("target_modules: a regular expression", _on(r".*\.layers\.1\..*(q_proj|v_proj)")),
    Kind("a regular expression with ^ and $", _on(r"^model\.layers\.[01]\.self_attn\.q_proj$")),
    Kind("full module names", _on((Q, "model.layers.1.mlp.down_proj"))),
    Kind("full names, layers_to_transform", _on((Q, "v_proj"), layers_to_transform=[1])),
    Kind("layers_to_transform: a number", _on(layers_to_transform=1)),
    Kind("layers_pattern", _on(layers_to_transform=[1], layers_pattern="layers")),
    Kind("layers_pattern: a list", _on(layers_to_transform=[0], layers_pattern=["h", "layers"])),
    Kind("exclude_modules", _on(exclude_modules=["v_proj"])),
    Kind("exclude_modules: an expression", _on(exclude_modules=r".*\.0\.self_attn\..*")),
    Kind(
        "target_modules null: PEFT's own",
        _on(("q_proj", "v_proj")),
        configured(target_modules=None),
    ),
    Kind("no r, rank 8", _on(r=8), configured(r=...)),
    Kind("no lora_alpha", _on(lora_alpha=8), configured(lora_alpha=...)),
    Kind("lora_alpha 0", _on(lora_alpha=0)),
    Kind("lora_alpha negative", _on(lora_alpha=-8)),
    Kind("lora_alpha a fraction", _on(), configured(lora_alpha=0.5)),
    Kind("output layer (lm_head)", _on(("lm_head",)), save=SAVE_NONE),
    Kind("output layer, its base saved too", _on(("q_proj", "lm_head"))),
    Kind("output layer, tied", _on(("q_proj", "lm_head")), base="tied", save=SAVE_NONE),
    Kind("output layer, tied, its base saved too", _on(("lm_head",)), base="tied"),
    Kind("output layer of Qwen2", _on(("q_proj", "lm_head")), base="qwen2"),
    Kind("output layer of GPT-2", _on(("c_attn", "lm_head")), base="gpt2", save=SAVE_NONE),
    Kind("embeddings of the base saved unchanged", _on(), save=SAVE_ALL),
    Kind(
        "GPT-2's Conv1D, fan_in_fan_out", _on(("c_attn", "c_fc"), fan_in_fan_out=True), base="gpt2"
    ),
    Kind("GPT-2's, PEFT's own targets", _on(("c_attn",)), configured(target_modules=None), "gpt2"),
    Kind("Qwen2, biases in its linears", _on("all-linear"), base="qwen2"),
    Kind("fan_in_fan_out on nn.Linear", _on(), configured(fan_in_fan_out=True)),
    Kind("init_lora_weights gaussian", _on(init_lora_weights="gaussian")),
    Kind("init_lora_weights orthogonal", _on(init_lora_weights="orthogonal")),
    Kind("init_lora_weights false", _on(init_lora_weights=False)),
    Kind("init_lora_weights mica", _on(init_lora_weights="mica")),
    Kind("init_lora_weights eva", _on(), configured(init_lora_weights="eva")),
    Kind("PiSSA, converted back", _on(init_lora_weights="pissa"), convert=True),
    Kind("OLoRA, converted back", _on(init_lora_weights="olora"), convert=True),
    Kind("lora_dropout", _on(lora_dropout=0.5)),
    Kind("fp16 factors", _on(), retyped(torch.float16)),
    Kind("bf16 factors", _on(), retyped(torch.bfloat16)),
    Kind("fp64 factors", _on(), retyped(torch.float64)),
    Kind("keys of PEFT 0.2", _on(), configured(enable_lora=None, merge_weights=False)),
    Kind("a key of tomorrow, empty", _on(), configured(use_tomorrow=None)),
]

OTHER_KINDS = [
    Kind("DoRA", _on(use_dora=True), refused='"use_dora" to true'),
    Kind("lora_bias", _on(lora_bias=True), refused='"lora_bias" to true', base="qwen2"),
    Kind("bias all", _on(bias="all"), refused='"bias" to "all"'),
    Kind("bias lora_only", _on(bias="lora_only"), refused='"bias" to "lora_only"', base="qwen2"),
    Kind("modules_to_save", _on(modules_to_save=["lm_head"]), refused='"modules_to_save" to'),
    Kind("LoRA on the embeddings", _on(("q_proj", "embed_tokens")), refused="adapts the embed"),
    Kind(
        "embeddings, without tensors",
        _on(),
        configured(target_modules=[*QV, "embed_tokens"]),
        refused="targets 'model.embed_tokens', a Embedding",
    ),
    Kind(
        "trainable_token_indices", _on(trainable_token_indices=[5, 6]), refused="trainable_token_"
    ),
    Kind(
        "target_parameters", _on(target_parameters=["mlp.up_proj.weight"]), refused="target_param"
    ),
    Kind("layer_replication", _on(layer_replication=[[0, 2], [1, 2]]), refused="layer_replication"),
    Kind("aLoRA", _on(alora_invocation_tokens=[5]), refused="alora_invocation_tokens"),
    Kind("ensure_weight_tying", _on(ensure_weight_tying=True), refused="ensure_weight_tying"),
    Kind("megatron", _on(), configured(megatron_config={"a": 1}), refused="megatron_config"),
    Kind("QALoRA", _on(), configured(use_qalora=True), refused="use_qalora"),
    Kind("VeLoRA", _on(), configured(velora_config={"scale": 1.0}), refused="velora_config"),
    Kind(
        "Monteclora", _on(), configured(monteclora_config={"num_samples": 8}), refused="monteclora"
    ),
    Kind("BD-LoRA", _on(), configured(use_bdlora={"nblocks": 2}), refused="use_bdlora"),
    Kind("Arrow", _on(), configured(arrow_config={"top_k": 3}), refused="arrow_config"),
    Kind("KaSA", _on(), configured(kasa_config={"beta": 1}), refused="kasa_config"),
    Kind(
        "old merged LoRA (enable_lora)",
        _on(),
        configured(enable_lora=[True]),
        refused="enable_lora",
    ),
    Kind(
        "a key of tomorrow", _on(), configured(use_tomorrow=True), refused='"use_tomorrow" to true'
    ),
    Kind("PiSSA", _on(init_lora_weights="pissa"), refused='"pissa", which may change'),
    Kind("PiSSA, fast", _on(init_lora_weights="pissa_niter_4"), refused="pissa_niter_4"),
    Kind("OLoRA", _on(init_lora_weights="olora"), refused='"olora"'),
    *(
        Kind(name, _on(), configured(init_lora_weights=value), refused=f'"{value}"')
        for name, value in (
            ("CorDA", "corda"),
            ("LoftQ", "loftq"),
            ("LoRA-GA", "lora_ga"),
            ("an unknown initialisation", "tomorrow"),
        )
    ),
    Kind(
        "IA3",
        {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
        config=peft.IA3Config,
        refused='peft_type "IA3"',
    ),
    Kind("LoHa", {"target_modules": QV}, config=peft.LoHaConfig, refused='peft_type "LOHA"'),
    Kind(
        "AdaLoRA",
        {"target_modules": QV, "total_step": 10},
        config=peft.AdaLoraConfig,
        refused='peft_type "ADALORA"',
    ),
    Kind(
        "prompt tuning",
        {"task_type": "CAUSAL_LM", "num_virtual_tokens": 4},
        config=peft.PromptTuningConfig,
        refused='peft_type "PROMPT_TUNING"',
    ),
    Kind("no peft_type", _on(), configured(peft_type=...), refused="has no peft_type"),
]

BROKEN = [
    Kind("r 0", _on(), configured(r=0), refused="r: Input should be greater than 0"),
    Kind("r null", _on(), configured(r=None), refused="r: Input should be a valid integer"),
    Kind("r as text", _on(), configured(r="4"), refused="r: Input should be a valid integer"),
    Kind("no r, rank 4", _on(), configured(r=...), refused="which do not fit"),
    Kind("another r than the tensors'", _on(), configured(r=8), refused="which do not fit"),
    Kind(
        "rank_pattern of 0", _on(), configured(rank_pattern={"q_proj": 0}), refused="rank_pattern"
    ),
    Kind("lora_alpha NaN", _on(), configured(lora_alpha=float("nan")), refused="lora_alpha: "),
    Kind("target_modules []", _on(), configured(target_modules=[]), refused="targets no module"),
    Kind(
        "targets of another model",
        _on(),
        configured(target_modules=["c_attn"]),
        refused="no module",
    ),
    Kind(
        "a broken expression",
        _on(),
        configured(target_modules="(q_proj"),
        refused="no regular expression",
    ),
    Kind(
        "a broken pattern",
        _on(),
        configured(alpha_pattern={"[": 1}),
        refused="no regular expression",
    ),
    Kind(
        "an expression and layers",
        _on(),
        configured(target_modules=".*q_proj", layers_to_transform=[1]),
        refused="layers_to_transform needs",
    ),
    Kind(
        "layers_pattern alone", _on(), configured(layers_pattern="layers"), refused="layers_pattern"
    ),
    Kind(
        "configuration: a list",
        _on(),
        written(CONFIG_FILE, b"[]"),
        refused="does not hold an object",
    ),
    Kind(
        "configuration: gone, as in a folder of GGUF or MLX",
        _on(),
        lambda f: (f / CONFIG_FILE).unlink(),
        refused="adapter_config.json is not there",
    ),
    Kind("configuration: not JSON", _on(), written(CONFIG_FILE, b"{"), refused="cannot be read"),
    Kind("configuration: git-lfs", _on(), written(CONFIG_FILE, LFS), refused="git lfs pull"),
    Kind("weights: git-lfs", _on(), written(WEIGHTS_FILE, LFS), refused="git lfs pull"),
    Kind(
        "weights: cut",
        _on(),
        written(WEIGHTS_FILE, lambda old: old[:-8]),
        refused="obtain it again",
    ),
    Kind("weights: empty", _on(), written(WEIGHTS_FILE, b""), refused="obtain it again"),
    Kind("weights: gone", _on(), lambda f: (f / WEIGHTS_FILE).unlink(), refused="cannot be read"),
    Kind("a NaN", _on(), poked(float("nan")), refused="not finite"),
    Kind("an infinity", _on(), poked(float("inf")), refused="not finite"),
    Kind("int8 factors", _on(), retyped(torch.int8), refused="is int8"),
    Kind(
        "no tensors", _on(), weighed(lambda _: {"x": torch.ones(1)}), refused="unknown tensor 'x'"
    ),
    Kind(
        "tensors missing",
        _on(),
        weighed(lambda t: {k: v for k, v in t.items() if Q not in k}),
        refused=f"lacks '{Q}'",
    ),
    Kind(
        "one side missing",
        _on(),
        weighed(lambda t: t.pop(f"{PREFIX}{Q}.lora_A.weight")),
        refused="has lora_B only",
    ),
    Kind(
        "tensors without a target",
        _on(),
        configured(target_modules=["q_proj"]),
        refused="is no linear of the base that",
    ),
    Kind("another width", _on(), weighed(narrowed), refused="which do not fit"),
    Kind("more layers", _on(), renamed(r"layers\.1", "layers.7"), refused="lacks 'model.layers.1."),
    Kind(
        "keys with the adapter's name",
        _on(),
        renamed(r"\.weight$", ".default.weight"),
        refused="unknown tensor",
    ),
    Kind(
        "keys without PEFT's prefix",
        _on(),
        renamed(r"^base_model\.model\.", ""),
        refused="unknown tensor",
    ),
    Kind(
        "a changed output layer beside it",
        _on(("lm_head",)),
        poked(5.0),
        refused="that is not what the base has",
    ),
]

KINDS = [*COMPUTED, *OTHER_KINDS, *BROKEN]
