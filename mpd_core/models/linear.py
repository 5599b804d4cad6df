"""Linear layers as the engine runs them: fused where they share an input, packed where it pays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from mpd_core.errors import PackError
from mpd_core.models.blocks import BlockLinear, RoundedLinear, join, rounded_weight
from mpd_core.models.counts import MOST, Compute, counts_of


def width_of(linear: nn.Module) -> int:
    """Output features of a linear of whatever kind."""
    return int(linear.out_features)  # type: ignore[arg-type]


def can_pack(dtype: torch.dtype = torch.float16) -> bool:
    """Whether this machine has the kernels that products of such weights need."""
    if dtype is torch.int8:
        return True
    if dtype is torch.bfloat16:  # in software it would be slower than fp32
        return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())
    engines = torch.backends.quantized.supported_engines
    return "fbgemm" in engines and hasattr(torch.ops.quantized, "linear_prepack_fp16")


COLUMN_BLOCK = 32
"""Outputs that the kernel of fp16 products computes together; fewer are summed another way."""


class _HalfLinear(nn.Module):
    """Weights of 16 bits, sums in fp32; a row's result is the same to the bit whatever other rows
    are in the batch, see ``counts``, which neither torch's fp32 product nor dynamic int8 can say.
    """

    dtype: torch.dtype
    make: Callable[..., Compute]
    """From a weight [out, in] and a bias [out] to what multiplies rows."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """Take a weight [out, in] and a bias [out].

        Raises:
            PackError: a number that the type does not hold.
        """
        super().__init__()
        self.out_features, self.in_features = weight.shape
        largest = float(weight.detach().abs().max()) if weight.numel() else 0.0
        if not largest <= torch.finfo(self.dtype).max:
            raise PackError(
                f"A weight of {list(weight.shape)} holds {largest:g}, which {str(self.dtype)[6:]} "
                'does not: set base.precision = "fp32" if that number is meant.'
            )
        self._product = self.make(weight, bias)
        shape = (self.out_features, self.in_features)
        self.counts = counts_of(str(self.dtype), self.make, self._product, shape)


def _fp16_product(weight: Tensor, bias: Tensor | None = None) -> Compute:
    idle = -len(weight) % COLUMN_BLOCK
    weight = nn.functional.pad(weight.float(), (0, 0, 0, idle))
    bias = None if bias is None else nn.functional.pad(bias.float(), (0, idle))
    packed = torch.ops.quantized.linear_prepack_fp16(weight, bias)
    # The overload by name: finding it takes longer than a small product.
    return partial(torch.ops.quantized.linear_dynamic_fp16.default, W_prepack=packed)


class PackedLinear(_HalfLinear):
    """fp16 weights in the layout of the CPU's matrix kernel, fp32 activations and sums.

    Half the bytes of fp32 a step. An output is the same whatever other outputs the matrix has: the
    last block is filled up with zeros.
    """

    dtype, make = torch.float16, staticmethod(_fp16_product)

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__(weight, bias)
        self._idle = self.out_features % COLUMN_BLOCK > 0
        self._plain = self.counts.plain

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] to [..., out]."""
        if self._plain and x.numel() <= MOST * self.in_features:
            y = self._product(x)
        else:
            y = self.counts.compute(self._product, x.reshape(-1, self.in_features))
            y = y.view(*x.shape[:-1], -1)
        return y[..., : self.out_features].contiguous() if self._idle else y


def _bf16_product(weight: Tensor, bias: Tensor | None = None) -> Compute:
    half = weight.detach().bfloat16()
    half_bias = None if bias is None else bias.detach().bfloat16()

    def compute(x: Tensor) -> Tensor:
        # A row alone takes another kernel, whose sums round otherwise in one row of ten: too
        # seldom for a measurement at load to see for certain.
        rows = x.bfloat16().expand(2, -1) if len(x) == 1 else x.bfloat16()
        return nn.functional.linear(rows, half, half_bias)[: len(x)].float()

    return compute


class Bf16Linear(_HalfLinear):
    """bf16 weights and activations, fp32 sums, for CPUs that multiply bf16 in hardware.

    Twice the rate of ``PackedLinear`` from about 16 rows on; but activations are rounded to 8 bits,
    which fp16 weights with fp32 activations are not.
    """

    dtype, make = torch.bfloat16, staticmethod(_bf16_product)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] to [..., out], both in fp32."""
        y = self.counts.compute(self._product, x.reshape(-1, self.in_features))
        return y.view(*x.shape[:-1], -1)


PACKED: dict[torch.dtype, type[PackedLinear] | type[Bf16Linear] | type[RoundedLinear]] = {
    torch.float16: PackedLinear,
    torch.bfloat16: Bf16Linear,
    torch.int8: RoundedLinear,
}
"""What computes fp32 to fp32 with weights of fewer bits, by the type of the weights; 8 bits are in
blocks with a scale each."""


def type_of_adapters(packed: torch.dtype | None) -> torch.dtype | None:
    """What adapters are packed to: they are small, and more exact than blocks of 8 bits."""
    return torch.float16 if packed is torch.int8 else packed


class SideBySide(nn.Module):
    """Several linears of one input whose outputs are concatenated; any kind of linear."""

    def __init__(self, linears: Sequence[nn.Module]) -> None:
        super().__init__()
        self.linears = nn.ModuleList(linears)
        self.in_features = linears[0].in_features
        self.out_features = sum(width_of(linear) for linear in linears)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] to [..., sum of outs]."""
        return torch.cat([linear(x) for linear in self.linears], dim=-1)


def fuse(linears: Sequence[nn.Module], *, packed: torch.dtype | None) -> nn.Module:
    """One module that computes several linears of the same input, outputs in order.

    Dense linears become one matrix, packed to a type if asked, and those in blocks of one kind
    another; others (NF4) stay what they are, and what is of different kinds lies side by side.
    """
    kinds = {type(linear) for linear in linears}
    blocks = [linear for linear in linears if isinstance(linear, BlockLinear)]
    if len(blocks) == len(linears) and (joined := join(blocks)):
        return joined
    if kinds != {nn.Linear}:
        parts = [fuse([p], packed=packed) if type(p) is nn.Linear else p for p in linears]
        return parts[0] if len(parts) == 1 else SideBySide(parts)
    weight = torch.cat([linear.weight for linear in linears])  # type: ignore[misc]
    biases = [linear.bias for linear in linears if linear.bias is not None]
    bias = torch.cat(biases) if biases else None  # type: ignore[arg-type]
    if packed:
        return PACKED[packed](weight, bias)
    if len(linears) == 1:
        return linears[0]
    fused = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    fused.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        fused.bias = nn.Parameter(bias, requires_grad=False)
    return fused


@torch.no_grad()
def round_to(model: nn.Module, dtype: torch.dtype, kept: Iterable[Tensor] = ()) -> None:
    """Round linears and embeddings in place to what a type holds; they stay fp32 tensors.

    What is quantised already stays as it is, and so do weights that are ``kept``. PEFT's adapters
    get their own type; blocks of 8 bits leave biases as they are.
    """
    places = {weight.data_ptr() for weight in kept}  # tied layers have one weight
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Embedding)) and module.weight.is_floating_point():
            if module.weight.data_ptr() in places:
                continue
            own = type_of_adapters(dtype) if "lora_" in name else dtype
            assert own is not None
            if own is torch.int8:
                module.weight.copy_(rounded_weight(module.weight))
                continue
            module.weight.copy_(module.weight.to(own))
            if isinstance(module, nn.Linear) and module.bias is not None:
                module.bias.copy_(module.bias.to(own))


def dense_linears(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """Parent, attribute and linear of every plain dense layer that is no adapter's."""
    for path, module in model.named_modules():
        for name, child in module.named_children():
            if type(child) is nn.Linear and "lora_" not in f"{path}.{name}":
                yield module, name, child
