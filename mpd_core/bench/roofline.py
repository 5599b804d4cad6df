"""The least time that a step can take on a machine: pure arithmetic on sizes. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

WEIGHT_BYTES = {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0, "nf4": 0.516, "q8": 1.06, "blocks": 0.72}
"""An element, with NF4's doubly quantised scales; of blocks SmolLM2's: 4 bits, an output of 8."""


@dataclass(frozen=True)
class Shapes:
    """The base's sizes, as far as bytes and arithmetic of a step depend on them.

    Attributes:
        weights: elements of all linears but the output layer.
        output: elements of the output layer.
        adapter: elements of one adapter.
        cache: numbers in a cache for each token that a row has.
        attention: operations for each token that a row attends to.
        trunk: share of the layers that lies below all adapters; rows of one text share it.
        hidden: width of a state.
        widest: outputs of the base's widest linear.
    """

    weights: int
    output: int
    adapter: int
    cache: int
    attention: int
    trunk: float = 0.0
    hidden: int = 0
    widest: int = 0


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
    """What one decoding step must do, in ``precision``, e.g. ``fp16 (fp32 compute)``.

    Returns:
        Bytes (weights once, adapters in use once, keys and values of every row once), and floating
        point operations, a multiplication and an addition being two.
    """
    in_cache, kind = 4 if cpu else 2, precision.split()[0]  # caches are fp32 on a CPU
    # Every layer alike: of the rows, the trunk's layers see the different texts only.
    row_layers = shapes.trunk * (rows.texts or rows.all) + (1 - shapes.trunk) * rows.all
    adapted = rows.mixed * rows.all if rows.adapters else 0
    # The output layer and adapters are never quantised.
    dense = WEIGHT_BYTES[kind] if kind != "nf4" else in_cache
    read = shapes.weights * WEIGHT_BYTES[kind]
    read += (shapes.output + rows.adapters * shapes.adapter) * dense
    read += row_layers * rows.context * shapes.cache * in_cache
    products = row_layers * shapes.weights + rows.experts * shapes.output + adapted * shapes.adapter
    return read, 2 * products + row_layers * rows.context * shapes.attention


def roofline(cost: tuple[float, float], bandwidth: float, rate: float) -> tuple[float, str]:
    """Milliseconds that bytes and operations take at least, and which of the two binds.

    Bandwidth is in bytes, the rate in operations at this number of rows, a second.
    """
    memory, arithmetic = 1000 * cost[0] / bandwidth, 1000 * cost[1] / rate
    return max((memory, "memory"), (arithmetic, "arithmetic"))
