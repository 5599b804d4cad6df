"""The least time that a step can take on a machine: pure arithmetic on sizes. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

WEIGHT_BYTES = {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0, "nf4": 0.516, "q8": 1.06, "blocks": 0.72}
"""An element, with NF4's doubly quantised scales; of blocks SmolLM2's: 4 bits, an output of 8."""


@dataclass(frozen=True)
class Shapes:
    """The base's sizes, as far as bytes and arithmetic of a step depend on them.

    ``linears`` leads from the full name of every linear but the output layer to (in, out),
    ``adapted`` from those that adapters touch; the ``trunk`` are layers below all adapters, which
    rows that read the same text share.
    """

    linears: dict[str, tuple[int, int]]
    vocabulary: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    adapted: dict[str, tuple[int, int]]
    rank: int = 8
    trunk: int = 0


@dataclass(frozen=True)
class Rows:
    """The rows of one step.

    Attributes:
        experts: rows that need the output layer.
        pcms: rows that do not.
        adapters: different ones in use.
        context: tokens that each row attends to.
        mixed: adapters that one row adds up.
        texts: different ones that rows read, each a row of the trunk; 0: as many as rows.
    """

    experts: int
    pcms: int = 0
    adapters: int = 0
    context: int = 0
    mixed: int = 1
    texts: int = 0

    @property
    def all(self) -> int:
        return self.experts + self.pcms


def step_cost(shapes: Shapes, rows: Rows, precision: str, *, cpu: bool) -> tuple[float, float]:
    """What one decoding step must do.

    Args:
        shapes: of the base.
        rows: that take part.
        precision: the engine's word for it, e.g. ``fp16 (fp32 compute)``.
        cpu: caches are fp32 there, and half as wide on a GPU.

    Returns:
        Bytes (weights once, adapters in use once, keys and values of every row once), and floating
        point operations, a multiplication and an addition being two.
    """
    in_cache, kind = 4 if cpu else 2, precision.split()[0]
    weights = sum(width * height for width, height in shapes.linears.values())
    lower, texts = shapes.trunk / shapes.layers, rows.texts or rows.all
    # Every layer alike: of the rows, the trunk's layers see the different texts only.
    row_layers = lower * texts + (1 - lower) * rows.all
    output = shapes.vocabulary * shapes.hidden
    adapter = shapes.rank * sum(width + height for width, height in shapes.adapted.values())
    adapted = rows.mixed * rows.all if rows.adapters else 0
    cache = 2 * shapes.layers * shapes.kv_heads * shapes.head_dim * rows.context
    attention = 4 * shapes.layers * shapes.heads * shapes.head_dim * rows.context
    # The output layer and adapters are never quantised.
    dense = WEIGHT_BYTES[kind] if kind != "nf4" else in_cache
    read = weights * WEIGHT_BYTES[kind] + (output + rows.adapters * adapter) * dense
    products = row_layers * weights + rows.experts * output + adapted * adapter
    return read + row_layers * cache * in_cache, 2 * products + row_layers * attention


def roofline(cost: tuple[float, float], bandwidth: float, rate: float) -> tuple[float, str]:
    """Milliseconds that bytes and operations take at least, and which of the two binds.

    Args:
        cost: of a step.
        bandwidth: bytes a second.
        rate: floating point operations a second at this number of rows.
    """
    memory, arithmetic = 1000 * cost[0] / bandwidth, 1000 * cost[1] / rate
    return max((memory, "memory"), (arithmetic, "arithmetic"))
