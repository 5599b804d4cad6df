"""How a machine's memory for keys and values is shared out among the models of an engine.

Once for all of them, when all weights are loaded: a cache is only laid out at its model's first
pass, so that each would find the same memory free, and take it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mpd_core.errors import PackError
from mpd_core.models.graphs import MOST_GRAPHS

MAX_ROWS = 256
CPU_CACHE_BYTES = 4 * 2**30
GPU_CACHE_SHARE = 0.8
"""Of what is free once graphs have theirs; the rest is for prompts as they are read, for adapters
where they are laid out, and for what the allocator cannot use."""
GRAPH_BYTES = 8 * 2**20
"""What a captured graph holds beside its tensors: its nodes and their arguments."""


@dataclass(frozen=True)
class Need:
    """What a model needs for a request."""

    rows: int
    """The most that one request can have there."""
    length: int
    """Tokens that a row holds."""
    token_bytes: int
    """Keys and values of one token in all layers."""
    step_bytes: int = 0
    """What a row of a decode step holds between its first layer and its last, if captured."""

    @property
    def row_bytes(self) -> int:
        """Of a row laid out in full, with what graphs keep for it: each its result, one a step."""
        return self.length * self.token_bytes + self.step_bytes


@dataclass(frozen=True)
class Share:
    """What a model gets: rows, and tokens that all of them together may grow to."""

    rows: int
    tokens: int


def share_gpu(free: int, needs: Mapping[str, Need]) -> dict[str, Share]:
    """Rows for as many whole requests as fit into ``free`` bytes: a GPU's cache takes them at once.

    Raises:
        PackError: not even one request fits.
    """
    captured = sum(1 for need in needs.values() if need.step_bytes)
    room = int((free - captured * MOST_GRAPHS * GRAPH_BYTES) * GPU_CACHE_SHARE)

    def rows(requests: int) -> dict[str, int]:
        return {name: min(MAX_ROWS, requests * need.rows) for name, need in needs.items()}

    def size(requests: int) -> int:
        return sum(needs[name].row_bytes * count for name, count in rows(requests).items())

    most = next((count for count in range(MAX_ROWS, 0, -1) if size(count) <= room), 0)
    if not most:
        raise PackError(
            f"decode.context: keys and values of one request take {size(1) / 2**30:.1f} GiB, and "
            f"this GPU has {max(0, room) / 2**30:.1f} GiB for them: lower decode.context, set "
            'base.quantize = "nf4", or use a larger GPU.'
        )
    return {name: Share(n, n * needs[name].length) for name, n in rows(most).items()}


def share_cpu(needs: Mapping[str, Need], total: int = CPU_CACHE_BYTES) -> dict[str, Share]:
    """Tokens in proportion to what a request needs; rows take memory only where written.

    A model has tokens for one whole row at least.
    """
    requests = total / sum(n.rows * n.length * n.token_bytes for n in needs.values())
    return {
        name: Share(MAX_ROWS, max(need.length, int(requests * need.rows * need.length)))
        for name, need in needs.items()
    }
