"""The least time that a step can take on a machine: pure arithmetic on sizes. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

from mpd_core.bench.material import Shapes

WEIGHT_BYTES = {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0, "nf4": 0.516}
"""An element, with NF4's doubly quantised scales."""


@dataclass(frozen=True)
class Rows:
    """The rows of one step."""

    experts: int
    """Rows that need the output layer."""
    pcms: int = 0
    adapters: int = 0
    """Different ones in use."""
    context: int = 0
    """Tokens that each row attends to."""
    mixed: int = 1
    """Adapters that one row adds up."""
    texts: int = 0
    """Different texts that rows read, each one row of the shared trunk; 0: as many as rows."""

    @property
    def all(self) -> int:
        return self.experts + self.pcms


@dataclass(frozen=True)
class StepCost:
    """What one step must do."""

    bytes: float
    """Weights once, adapters in use once, keys and values of every row once."""
    operations: float
    """Floating point, a multiplication and an addition being two."""

    def roofline(self, bandwidth: float, rate: float) -> tuple[float, str]:
        """Milliseconds that it takes at least, and which of the two binds.

        Args:
            bandwidth: bytes a second.
            rate: floating point operations a second at this number of rows.
        """
        read, computed = 1000 * self.bytes / bandwidth, 1000 * self.operations / rate
        return max((read, "memory"), (computed, "arithmetic"))


def step_cost(shapes: Shapes, rows: Rows, precision: str, *, cpu: bool) -> StepCost:
    """Bytes and operations of one decoding step.

    Args:
        shapes: of the base.
        rows: that take part.
        precision: the engine's word for it, e.g. ``fp16 (fp32 compute)``.
        cpu: caches are fp32 there, and half as wide on a GPU.
    """
    in_cache = 4 if cpu else 2
    weights = sum(width * height for width, height in shapes.linears.values())
    lower, texts = shapes.trunk / shapes.layers, rows.texts or rows.all
    # Every layer alike: of the rows, the trunk's layers see the different texts only.
    row_layers = lower * texts + (1 - lower) * rows.all
    output = shapes.vocabulary * shapes.hidden
    adapter = shapes.rank * sum(width + height for width, height in shapes.adapted.values())
    adapted = rows.mixed * rows.all if rows.adapters else 0
    cache = 2 * shapes.layers * shapes.kv_heads * shapes.head_dim * rows.context
    attention = 4 * shapes.layers * shapes.heads * shapes.head_dim * rows.context
    kind = precision.split()[0]
    an_element = WEIGHT_BYTES[kind]
    # The output layer and adapters are never quantised.
    dense_element = an_element if kind != "nf4" else in_cache
    return StepCost(
        bytes=weights * an_element
        + (output + rows.adapters * adapter) * dense_element
        + row_layers * cache * in_cache,
        operations=2 * (row_layers * weights + rows.experts * output + adapted * adapter)
        + row_layers * attention,
    )
