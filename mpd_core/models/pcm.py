"""The Preference Control Model (paper, section 3.1): what weighs the experts at every token.

A LLaMA backbone (the base itself, or a small one of its own) reads instruction, preference text
and the reply so far; a linear head on its last hidden state has one output per pole of the pack;
a softmax over the poles that the preference chose gives alpha.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mpd_core.errors import PackError
from mpd_core.models.numbers import is_finite
from mpd_core.models.store import one_line

PAIRS = "pairs"


class WeightHead(nn.Module):
    """Linear layer plus masked softmax: hidden states to weights on the simplex.

    ``pairs`` is what a pole's score gains from each other pole of the preference. The backbone
    reads the preference as text, too, but a small one is slow to learn from it that, say,
    "knowledgeable" counts for more beside "informative" than beside "concise".

    It starts at zero, and a zero head weighs uniformly whatever the backbone says: MPD before
    training is exactly MPD (Uniform).
    """

    def __init__(self, hidden_size: int, poles: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, poles)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.pairs = nn.Parameter(torch.zeros(poles, poles))

    def forward(self, hidden: Tensor, chosen: Tensor) -> Tensor:
        """Weights for every pole, 0 outside the chosen ones.

        Args:
            hidden: last hidden states, [..., D].
            chosen: True where the preference has the pole, [..., poles]; at least one a row.

        Returns:
            alpha in fp32, [..., poles], summing to 1.
        """
        weight, bias = self.linear.weight, self.linear.bias
        return self.weigh(_each(hidden.to(weight.dtype), weight) + bias, chosen)

    def weigh(self, scores: Tensor, chosen: Tensor) -> Tensor:
        """From the linear layer's scores on; shapes as in ``forward``, [..., poles] for scores."""
        scores = scores + _each(chosen.to(self.pairs.dtype), self.pairs)
        return torch.softmax(scores.masked_fill(~chosen, -torch.inf), dim=-1)

    def tensors(self) -> dict[str, Tensor]:
        """Its parameters under the names that they have in a file."""
        return {**self.linear.state_dict(), PAIRS: self.pairs.detach()}


def _each(x: Tensor, weight: Tensor) -> Tensor:
    """x W^T, [..., in] to [..., out], for few outputs: a row's sums whatever other rows there are.

    A matrix product picks its kernel, and with it the order of its sums, by the number of rows.
    """
    return (x.unsqueeze(-2) * weight).sum(dim=-1)


def load_head(hidden_size: int, poles: int, file: Path | None) -> WeightHead:
    """A head from safetensors, or zero.

    The file has exactly ``weight`` [poles, D], ``bias`` [poles] and, unless all are zero, ``pairs``
    [poles, poles].

    Raises:
        PackError: unreadable file, missing or extra tensors, wrong shapes, or numbers that are not
            finite.
    """
    head = WeightHead(hidden_size, poles).eval().requires_grad_(False)
    if file is None:
        return head
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise PackError(f"pcm.head: {file} cannot be read: {one_line(error)}") from error
    expected = {name: tuple(p.shape) for name, p in head.tensors().items()}
    found = {PAIRS: (poles, poles), **{name: tuple(t.shape) for name, t in tensors.items()}}
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
