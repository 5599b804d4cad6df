"""The PCM's head from a file."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file

from mpd_core.errors import PackError, others_as
from mpd_core.method.weight_head import FORMERLY, PAIR_BIAS, WeightHead
from mpd_core.models.numbers import is_finite


def load_head(hidden_size: int, poles: int, file: Path | None) -> WeightHead:
    """A head from safetensors, or zero.

    The file has exactly ``weight`` [poles, D], ``bias`` [poles] and, unless all are zero,
    ``pair_bias`` [poles, poles]; earlier versions wrote it as ``pairs``.

    Raises:
        PackError: unreadable file, missing or extra tensors, wrong shapes, or numbers that are not
            finite.
    """
    head = WeightHead(hidden_size, poles).eval().requires_grad_(False)
    if file is None:
        return head
    with others_as(PackError, lambda why: f"pcm.head: {file} cannot be read: {why}"):
        tensors = load_file(file)
    expected = {name: tuple(p.shape) for name, p in head.tensors().items()}
    if FORMERLY in tensors and PAIR_BIAS not in tensors:
        tensors[PAIR_BIAS] = tensors.pop(FORMERLY)
    found = {PAIR_BIAS: (poles, poles), **{name: tuple(t.shape) for name, t in tensors.items()}}
    if found != expected:
        raise PackError(f"pcm.head: {file} holds {found}, but the pack needs {expected}.")
    for name, tensor in tensors.items():
        if not (tensor.is_floating_point() and is_finite(tensor)):
            raise PackError(
                f"pcm.head: '{name}' in {file} holds numbers that are no finite floating-point "
                "ones: train it again, or take the key out to weigh uniformly."
            )
        head.tensors()[name].copy_(tensor)
    return head
