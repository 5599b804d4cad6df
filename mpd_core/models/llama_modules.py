"""A LLaMA's modules, to hold its weights: ``LlamaBody`` computes with them.

By the names that they have in transformers' classes, whose code takes 130 MB of a process for good,
with what it imports: torch's distributed tensors, sympy, and accelerate and scipy where they are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class _Undrawn(nn.Linear):
    """With whatever is in its memory: on "meta", drawing numbers imports torch's compiler."""

    def reset_parameters(self) -> None:
        pass


def undrawn(inputs: int, outputs: int, bias: bool) -> nn.Linear:
    """A linear that waits for its weights."""
    made: nn.Linear = _Undrawn(inputs, outputs, bias)
    made.__class__ = nn.Linear  # what is packed is told by its type
    return made


class LlamaForCausalLM(nn.Module):
    """What others read of transformers' class of that name; ``LlamaBody`` is what computes."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.model = LlamaModel(config)
        output: Any = undrawn(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            output.weight = self.model.embed_tokens.weight
        self.lm_head: nn.Module = output

    def get_input_embeddings(self) -> nn.Module:
        return self.model.embed_tokens

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    @property
    def cached_bytes(self) -> int:
        """Of keys and values of one token in all layers."""
        config = self.config
        heads = config.num_hidden_layers * config.num_key_value_heads
        return int(2 * heads * config.head_dim * self.dtype.itemsize)


class LlamaModel(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        size = (config.vocab_size, config.hidden_size)
        self.embed_tokens = nn.Embedding(*size, _weight=torch.empty(size))
        self.layers = nn.ModuleList(
            LlamaDecoderLayer(config) for _ in range(config.num_hidden_layers)
        )
        self.norm = LlamaRMSNorm(config)
        self.rotary_emb = LlamaRotaryEmbedding(config)


class LlamaDecoderLayer(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.self_attn = LlamaAttention(config)
        self.mlp = LlamaMLP(config)
        self.input_layernorm = LlamaRMSNorm(config)
        self.post_attention_layernorm = LlamaRMSNorm(config)


class LlamaAttention(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.scaling = self.head_dim**-0.5
        width, bias = config.hidden_size, config.attention_bias
        own, shared = (
            heads * self.head_dim
            for heads in (config.num_attention_heads, config.num_key_value_heads)
        )
        self.q_proj = undrawn(width, own, bias)
        self.k_proj = undrawn(width, shared, bias)
        self.v_proj = undrawn(width, shared, bias)
        self.o_proj = undrawn(own, width, bias)


class LlamaMLP(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        width, between, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_proj = undrawn(width, between, bias)
        self.up_proj = undrawn(width, between, bias)
        self.down_proj = undrawn(between, width, bias)
        self.act_fn = nn.SiLU()


class LlamaRMSNorm(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.hidden_size))


class LlamaRotaryEmbedding(nn.Module):
    """Of positions as transformers computes it, to the bit."""

    rope_type = "default"

    def __init__(self, config: Any) -> None:
        super().__init__()
        size, base = config.head_dim, config.rope_parameters["rope_theta"]
        steps = torch.arange(0, size, 2, dtype=torch.float, device="cpu") / size
        inverse = 1.0 / (base**steps)
        self.register_buffer("inv_freq", inverse, persistent=False)

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin of positions [rows, T], [rows, T, head_dim] in the type of ``x``."""
        frequencies: Any = self.inv_freq
        angles = position_ids[..., None].float() * frequencies
        both = torch.cat([angles, angles], dim=-1)
        return both.cos().to(x.dtype), both.sin().to(x.dtype)
