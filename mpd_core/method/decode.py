"""Merged Preference Dimensions, the whole of it in one loop: no cache, no batch.

    p(y_t | y_<t)  =  sum_i  alpha_i(x, xi, y_<t)  p_i(y_t | x_i, y_<t)                      (Eq. 1)

x is the instruction and xi the preference, one pole of each dimension. Each chosen pole has a
frozen expert p_i, which reads x_i: the instruction, for a prompted expert with its pole's sentence.
The Preference Control Model reads the instruction with all of xi and weighs the experts anew at
every token. All of them then read the token that was chosen, whoever proposed it.

The engine computes the same fast, for many requests at once. It must give these tokens and
probabilities, and tests hold it to that: ``engine/reference.py`` runs this loop over transformers
and PEFT. Axes: ``E`` experts, ``A`` anchors, ``V`` vocabulary, ``D`` width of a hidden state.
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
"""From token ids, a prompt and the reply so far, to the next token's logits, [V]; for a PCM's
backbone to the last hidden state, [D]."""
Reads = Callable[[Ids], Tensor]
"""From the reply so far, y_<t, to what an expert or the PCM makes of it."""


def expert(model: Model, prompt: Ids) -> Reads:
    """ln p_i(. | x_i, y_<t), [V]: a model, and the prompt x_i that it reads."""
    return lambda reply: torch.log_softmax(model([*prompt, *reply]).float(), dim=-1)


def pcm(backbone: Model, head: WeightHead, prompt: Ids, poles: Ids) -> Reads:
    """alpha(x, xi, y_<t), [E]: a backbone with its head, and the prompt that holds x and xi.

    ``poles`` are the experts' places among the head's outputs: the softmax is over these alone.
    """
    chosen = torch.tensor([list(poles)])
    return lambda reply: head.expert_weights(backbone([*prompt, *reply])[None], chosen)[0]


@dataclass(frozen=True)
class Step:
    """One token of a reply."""

    token: int
    """y_t."""
    weights: Tensor
    """alpha, [E]."""
    log_probs: Tensor
    """ln p_i, [E, V]."""
    merged: Tensor
    """ln p of the mixture, [V]."""
    anchors: Tensor | None = None
    """In the space ``strength`` what its anchors say, [A, V]."""


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
        experts: one for each pole of the preference, see ``expert``.
        weigh: gives alpha: ``pcm``, or constant weights.
        choose: draws a token from log-probabilities [V], given the reply so far.
        end: tokens that end a reply.
        max_new_tokens: it ends after so many, too.
        space: where experts are merged; the paper's is ``probability``.
        anchors: for the space ``strength``: what is moved and, where it is another, what from.
        strength: B at the reply's first, second, ... token; see ``merging.fading_strength``.
        plausibility: see ``merging.implausible``.
    """
    reply: list[int] = []
    while len(reply) < max_new_tokens and not (reply and reply[-1] in end):
        log_probs = torch.stack([read(reply) for read in experts])
        alpha = weigh(reply)
        prior = torch.stack([read(reply) for read in anchors]) if anchors else None
        merged = merge(space, log_probs, alpha, prior, strength(len(reply)), plausibility)  # Eq. 1
        token = choose(merged, reply)
        reply.append(token)  # the same one for everybody: here the experts meet
        yield Step(token, alpha, log_probs, merged, prior)
