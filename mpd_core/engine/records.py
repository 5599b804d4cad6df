"""From a distribution and a chosen token to the plain record that clients see."""

from __future__ import annotations

import math
from typing import Any

import torch

from mpd_core.engine.runner import Distribution
from mpd_core.merging import disagreement, entropy
from mpd_core.request import Sampling
from mpd_core.trace import Candidate, FinishReason, StepRecord


def finish_reason(
    tokens: list[int], sampling: Sampling, end_of_turn: frozenset[int]
) -> FinishReason | None:
    """Why a reply with these tokens is over, or None while it is not."""
    if tokens[-1] in end_of_turn:
        return "stop"
    return "length" if len(tokens) >= sampling.max_new_tokens else None


def make_step(
    index: int,
    token: int,
    text: str,
    experts: tuple[str, ...],
    said: Distribution,
    tokenizer: Any,
    top_k: int,
) -> StepRecord:
    """Describe one decoding step.

    Args:
        index: of the step, from 0.
        token: the chosen id.
        text: what it adds to the reply.
        experts: names of the rows of ``said.log_probs``.
        said: the experts' and the merged distribution.
        tokenizer: names the candidates.
        top_k: how many candidates to take from the mixture and from each expert.
    """
    both = torch.cat([said.merged[None], said.log_probs])  # [1 + E, V]
    k = min(top_k, both.shape[-1])
    ids = dict.fromkeys(both.topk(k, dim=-1).indices.flatten().tolist())
    table = both[:, [token, *ids]].T.tolist()
    candidates = sorted(
        (
            Candidate(i, tokenizer.decode([i]), min(1.0, _exp(row[0])), _named(experts, row[1:]))
            for i, row in zip(ids, table[1:], strict=True)
        ),
        key=lambda candidate: -candidate.probability,
    )
    return StepRecord(
        index=index,
        token_id=token,
        text=text,
        weights=_named(experts, said.weights.tolist()),
        probability=min(1.0, _exp(table[0][0])),
        logprobs=_named(experts, table[0][1:]),
        entropy=float(entropy(said.merged)),
        disagreement=float(disagreement(said.log_probs, said.weights)),
        top_k=tuple(candidates),
        missing={experts[k]: mass for k, mass in said.missing.items()},
    )


def _named(names: tuple[str, ...], values: list[float]) -> dict[str, float]:
    return dict(zip(names, values, strict=True))


def _exp(log_prob: float) -> float:
    return math.exp(log_prob)
