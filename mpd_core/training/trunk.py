"""The frozen lower layers of a model, computed once for every text that training reads.

Adapters that touch only upper layers leave the states below them as they are, for all experts,
reward models and every epoch. Here those lower layers become the model's embedding: it looks a
text's states up, or computes and keeps them. What a trainer sees is an ordinary causal LM.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from mpd_core.errors import PackError

MEMORY_BYTES = 4 * 2**30


class _Skipped(nn.Module):
    """Stands where a layer was that the trunk has run already."""

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        return hidden_states


class Trunk(nn.Module):
    """Embedding and lower layers: ids [rows, T], padded on the right, to states [rows, T, D]."""

    def __init__(self, lower: nn.Module, pad: int, *, memory: int = MEMORY_BYTES) -> None:
        """Take over a decoder without its upper layers and final norm.

        Args:
            lower: ids to states; causal, so that padding on the right changes nothing before it.
            pad: the padding token.
            memory: bytes of states to keep; the least recently used go first.
        """
        super().__init__()
        # Not registered: frozen, the same for every trainer, and no part of what they save.
        self._lower = (lower,)
        self._pad = pad
        self._memory = memory
        self._bytes = 0
        self._known: OrderedDict[bytes, Tensor] = OrderedDict()

    @torch.no_grad()
    def forward(self, ids: Tensor) -> Tensor:
        texts = [_stripped(row, self._pad) for row in ids.cpu()]
        keys = [text.numpy().tobytes() for text in texts]
        missing = {k: t for k, t in zip(keys, texts, strict=True) if k not in self._known}
        new = self._compute(list(missing.values()), ids.device)
        found = dict(zip(missing, new, strict=True))
        for key in keys:
            if key in self._known:
                self._known.move_to_end(key)
                found[key] = self._known[key]
        self._keep(dict(zip(missing, new, strict=True)))
        width = found[keys[0]].shape[-1]
        out = torch.zeros(*ids.shape, width, device=ids.device)
        for row, key in enumerate(keys):
            out[row, : len(found[key])] = found[key].to(out)
        return out

    def _compute(self, texts: list[Tensor], device: torch.device) -> list[Tensor]:
        if not texts:
            return []
        padded = nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=self._pad)
        states = self._lower[0](input_ids=padded.to(device), use_cache=False).last_hidden_state
        return [
            row[: len(text)].to("cpu", torch.bfloat16).clone()
            for row, text in zip(states, texts, strict=True)
        ]

    def _keep(self, states: dict[bytes, Tensor]) -> None:
        for key, state in states.items():
            self._known[key] = state
            self._bytes += state.nbytes
        while self._bytes > self._memory:
            _, state = self._known.popitem(last=False)
            self._bytes -= state.nbytes


def _stripped(row: Tensor, pad: int) -> Tensor:
    """Without the padding, but for one: it may be the text's own end-of-turn token."""
    real = (row != pad).nonzero()
    return row[: int(real[-1]) + 2 if len(real) else 1]


def share_trunk(model: Any, first: int, pad: int, trunk: Trunk | None = None) -> Trunk | None:
    """Turn the layers before ``first`` of a causal LM or classifier into its embedding, in place.

    Args:
        model: of transformers, with ``model.layers`` and ``model.embed_tokens``; frozen below.
        first: the lowest layer that will be trained; 0 changes nothing.
        pad: the padding token, used on the right.
        trunk: of another model with the same frozen layers, to share what it knows.

    Raises:
        PackError: the architecture has no such layers.
    """
    if first == 0:
        return None
    body = model.model
    if not (hasattr(body, "layers") and hasattr(body, "embed_tokens") and hasattr(body, "norm")):
        raise PackError(f"lora.first_layer: {type(model).__name__} is not built of plain layers.")
    if trunk is None:
        trunk = Trunk(_lower_part(body, first), pad)
    body.layers = nn.ModuleList(
        layer if k >= first else _Skipped() for k, layer in enumerate(body.layers)
    )
    body.embed_tokens = trunk
    return trunk


def _lower_part(body: Any, first: int) -> nn.Module:
    """The same decoder up to a layer, weights shared, nothing normed at its end."""
    with torch.device("meta"):
        lower = type(body)(body.config)
    lower.layers = body.layers[:first]
    lower.embed_tokens, lower.rotary_emb, lower.norm = (
        body.embed_tokens,
        body.rotary_emb,
        nn.Identity(),
    )
    lower.eval().requires_grad_(False)
    return lower  # type: ignore[no-any-return]
