"""MPD in one loop: no cache, no batch, one expert after the other.

What the engine does fast. It must give the same tokens and probabilities, and tests hold it to
that: ``engine/reference.py`` runs this loop over transformers and PEFT.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mpd_core.method.merging import merge
from mpd_core.method.weight_head import WeightHead
from mpd_core.request import Space

Ids = Sequence[int]
Model = Callable[[list[int]], Tensor]
"""A prompt and the reply so far, as token ids, to the next token's logits, [V]; for a PCM's
backbone to the last hidden state, [D]."""
Reads = Callable[[Ids], Tensor]
"""The reply so far, to what somebody says of it."""


@dataclass(frozen=True)
class Step:
    """One token of a reply; E experts, A anchors."""

    token: int
    weights: Tensor
    """alpha, [E]."""
    log_probs: Tensor
    """ln p_i, [E, V]."""
    merged: Tensor
    """Log-probabilities of the mixture, [V]."""
    anchors: Tensor | None = None
    """In the space ``strength``, [A, V]."""


def expert(model: Model, prompt: Ids) -> Reads:
    """ln p_i(. | x_i, y_<t): a model that reads a prompt of its own."""
    return lambda reply: torch.log_softmax(model([*prompt, *reply]).float(), dim=-1)


def pcm(backbone: Model, head: WeightHead, prompt: Ids, poles: Ids) -> Reads:
    """alpha(x, xi, y_<t): the prompt holds the preference; poles are the experts' in the head."""
    chosen = torch.tensor([list(poles)])
    return lambda reply: head.expert_weights(backbone([*prompt, *reply])[None], chosen)[0]


def decode(
    experts: Sequence[Reads],
    weigh: Reads,
    choose: Callable[[Tensor, list[int]], int],
    *,
    end: Collection[int],
    max_new_tokens: int,
    space: Space = "probability",
    anchors: Sequence[Reads] = (),
    strength: Callable[[int], float | Tensor] = lambda _: 1.0,
    plausibility: float = 0.0,
) -> Iterator[Step]:
    """A reply, token by token.

    Args:
        experts: one for each pole of the preference.
        weigh: gives alpha: a PCM, or constant weights.
        choose: draws a token from log-probabilities [V], given the reply so far.
        end: tokens that end a reply.
        max_new_tokens: it ends after so many, too.
        space: of the merge.
        anchors: in the space ``strength``, what is moved and, where it is another, what from.
        strength: B at the reply's first, second, ... token; see ``merging.fading_strength``.
        plausibility: see ``merging.implausible``.
    """
    reply: list[int] = []
    while len(reply) < max_new_tokens and not (reply and reply[-1] in end):
        log_probs = torch.stack([read(reply) for read in experts])
        weights = weigh(reply)
        prior = torch.stack([read(reply) for read in anchors]) if anchors else None
        merged = merge(  # Eq. 1
            space, log_probs, weights, prior, strength(len(reply)), plausibility
        )
        reply.append(choose(merged, reply))
        yield Step(reply[-1], weights, log_probs, merged, prior)
