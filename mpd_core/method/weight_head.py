"""alpha: what weighs the experts at every token (paper, section 3.1).

The Preference Control Model is a LLaMA backbone (the base itself, or a small model of its own) that
reads instruction, preference text and the reply so far; a linear head on its last hidden state has
one output per pole of the pack; a softmax over the poles that the preference chose gives alpha.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

PAIR_BIAS, FORMERLY = "pair_bias", "pairs"
"""Name of the pair scores in a file, and the one that files of earlier versions have."""


def softmax_over(scores: Tensor, chosen: Tensor) -> Tensor:
    """alpha from scores: a softmax over those that are chosen, 0 for the others.

    Args:
        scores: [..., n].
        chosen: booleans that broadcast to the same shape; at least one a row.
    """
    return torch.softmax(scores.masked_fill(~chosen, -torch.inf), dim=-1)


def top_one(weights: Tensor) -> Tensor:
    """All weight on the expert that has most of it, the first of several; [..., E] to [..., E]."""
    return torch.zeros_like(weights).scatter(-1, weights.argmax(dim=-1, keepdim=True), 1.0)


class WeightHead(nn.Module):
    """Linear layer plus masked softmax: hidden states to weights on the simplex.

    ``pair_bias[i, j]`` is added to pole i's score where pole j is chosen, too. The backbone reads
    the preference as text as well, but a small one is slow to learn from it that, say,
    "knowledgeable" counts for more beside "informative" than beside "concise".

    It starts at zero, and a zero head weighs uniformly whatever the backbone says: MPD before
    training is exactly MPD (Uniform).
    """

    def __init__(self, hidden_size: int, poles: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, poles)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.pair_bias = nn.Parameter(torch.zeros(poles, poles))

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
        return softmax_over(scores + _each(chosen.to(self.pair_bias.dtype), self.pair_bias), chosen)

    def expert_weights(self, hidden: Tensor, poles: Tensor) -> Tensor:
        """alpha of each expert instead of each pole.

        Args:
            hidden: last hidden states of N preferences, [N, D] or [N, T, D].
            poles: index of each expert's pole in the head, [N, E]; -1 where there is no expert.

        Returns:
            [N, E] or [N, T, E]; 0 where there is no expert.
        """
        every = torch.arange(len(self.linear.bias), device=poles.device)
        chosen = (poles[..., None] == every).any(dim=1)  # [N, poles]
        while poles.dim() < hidden.dim():
            chosen, poles = chosen.unsqueeze(1), poles.unsqueeze(1)
        index = poles.clamp_min(0).expand(*hidden.shape[:-1], -1)
        alpha: Tensor = self(hidden, chosen)
        return alpha.gather(-1, index) * (poles >= 0)

    def tensors(self) -> dict[str, Tensor]:
        """Its parameters under the names that they have in a file."""
        return {**self.linear.state_dict(), PAIR_BIAS: self.pair_bias.detach()}


def _each(x: Tensor, weight: Tensor) -> Tensor:
    """x W^T, [..., in] to [..., out], for few outputs: a row's sums whatever other rows there are.

    A matrix product picks its kernel, and with it the order of its sums, by the number of rows.
    """
    return (x.unsqueeze(-2) * weight).sum(dim=-1)
