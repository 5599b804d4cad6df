"""The frozen lower layers of a model, computed once for every text that training reads.

Adapters that touch only upper layers leave the states below them as they are, for all experts,
reward models and every epoch. Here those lower layers become the model's embedding: it looks a
text's states up, or computes and keeps them. What a trainer sees is an ordinary causal LM.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mpd_core.errors import PackError

MEMORY_BYTES = 4 * 2**30
PADDING = -1


def padded(rows: Iterable[Tensor], value: float = 0.0) -> Tensor:
    """Rows of different lengths as one tensor, filled up behind their ends."""
    return nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=value)


@dataclass(frozen=True)
class Layout:
    """Texts with a common prefix, packed in one row: the prefix, then the texts' own parts."""

    positions: Tensor
    """Position of each token in its own text, [rows, L]."""
    segments: Tensor
    """0 for the shared prefix, k for tokens of the k-th text, -1 for padding, [rows, L]."""

    def visible(self) -> Tensor:
        """Attention mask: each token attends to the prefix and its own text, causally.

        Returns:
            [rows, 1, L, L], as attention takes it.
        """
        own = self.segments[:, :, None] == self.segments[:, None, :]
        shared = self.segments[:, None, :] == 0
        return ((own | shared) & torch.ones_like(own).tril())[:, None]

    def to(self, device: torch.device) -> Layout:
        """The same on a device."""
        return Layout(self.positions.to(device), self.segments.to(device))


class _Skipped(nn.Module):
    """Placeholder for a layer that the trunk has already computed."""

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        return hidden_states


class Trunk(nn.Module):
    """Embedding and lower layers: ids [rows, T], padded on the right, to states [rows, T, D].

    Attributes:
        kept_as: the type in which states are kept.
    """

    kept_as = torch.bfloat16

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
    def forward(self, ids: Tensor, layout: Layout | None = None) -> Tensor:
        """States [rows, L, D] of ids [rows, L]; without a layout every row is one text."""
        device, ids = ids.device, ids.cpu()
        layout = _plain(ids, self._pad) if layout is None else layout.to(ids.device)
        parts = [_parts(*row) for row in zip(ids, layout.segments, strict=True)]
        new = [k for k, some in enumerate(parts) if not some.keys() <= self._known.keys()]
        found = {
            key: self._known[key] for k, some in enumerate(parts) if k not in new for key in some
        }
        if new:
            computed = self._compute(ids[new], layout.positions[new], layout.segments[new], device)
            for k, states in zip(new, computed, strict=True):
                found |= {key: states[at[: len(states)]] for key, at in parts[k].items()}
        self._keep(found)
        width = next(iter(found.values())).shape[-1]
        out = torch.zeros(*ids.shape, width)
        for row, some in zip(out, parts, strict=True):
            for key, place in some.items():
                row[place] = found[key].to(out)
        return out.to(device)

    def _compute(
        self, ids: Tensor, positions: Tensor, segments: Tensor, device: torch.device
    ) -> Tensor:
        """States of whole rows, cut where the longest ends, [rows, T, D] on the CPU."""
        length = int((segments != PADDING).sum(dim=1).max())
        layout = Layout(positions[:, :length], segments[:, :length]).to(device)
        packed = bool((layout.segments > 0).any())  # plain texts need no mask but the causal one
        states: Tensor = self._lower[0](
            input_ids=ids[:, :length].to(device),
            position_ids=layout.positions,
            attention_mask=layout.visible() if packed else None,
            use_cache=False,
        ).last_hidden_state
        return states.to("cpu", self.kept_as)

    def _keep(self, states: dict[bytes, Tensor]) -> None:
        for key, state in states.items():
            if key not in self._known:
                self._bytes += state.nbytes
            self._known[key] = state
            self._known.move_to_end(key)
        while self._bytes > self._memory:
            _, state = self._known.popitem(last=False)
            self._bytes -= state.nbytes


def _parts(ids: Tensor, segments: Tensor) -> dict[bytes, Tensor]:
    """What all texts of a row share, and each text's own end: a key and where in the row it lies.

    States of an end follow from what is shared and the end itself, whatever texts lie beside it,
    so rows that hold the same answers in other company share what is known of them.
    """
    shared = segments == 0
    start = ids[shared].numpy().tobytes()
    ends = [segments == number for number in range(1, int(segments.max()) + 1)]
    own = {start + b"|" + ids[end].numpy().tobytes(): end for end in ends}
    return {start: shared, **own}


def _plain(ids: Tensor, pad: int) -> Layout:
    """One text a row, without padding but for one token: it may be the text's own end of turn."""
    places = torch.arange(ids.shape[1]).expand_as(ids)
    lengths = ((places + 1) * (ids != pad)).amax(dim=1, keepdim=True) + 1
    return Layout(places, torch.where(places < lengths, 0, PADDING))


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
        with torch.device("meta"):
            lower: Any = type(body)(body.config)  # weights shared, without the final norm
        lower.layers, lower.norm = body.layers[:first], nn.Identity()
        lower.embed_tokens, lower.rotary_emb = body.embed_tokens, body.rotary_emb
        trunk = Trunk(lower.eval().requires_grad_(False), pad)
    body.layers = nn.ModuleList(
        layer if k >= first else _Skipped() for k, layer in enumerate(body.layers)
    )
    body.embed_tokens = trunk
    return trunk
