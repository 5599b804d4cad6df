"""A reply as it is written: its next token is drawn, spelled, recorded and told to its stream."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mpd_core.engine.distribution import StepStats
from mpd_core.engine.plan import ANCHOR, PLAIN
from mpd_core.engine.sequence import Sequence
from mpd_core.engine.stream import Stream
from mpd_core.errors import EngineError
from mpd_core.prompts import StreamDecoder
from mpd_core.request import Sampling
from mpd_core.sampling import choose, draw
from mpd_core.trace import Candidate, FinishReason, StepRecord

if TYPE_CHECKING:
    from mpd_core.engine.processor import RequestProcessor

NOT_FINITE = (
    "The next token's distribution is not finite: the base, an adapter or the PCM holds or reaches "
    'numbers beyond its precision; try base.precision = "fp32", or another preference or method.'
)


def finish_reason(
    tokens: list[int] | tuple[int, ...], sampling: Sampling, end_of_turn: frozenset[int]
) -> FinishReason | None:
    """Why a reply with these tokens is over, or None while it is not."""
    if tokens[-1] in end_of_turn:
        return "stop"
    return "length" if len(tokens) >= sampling.max_new_tokens else None


def make_step(
    index: int,
    text: str,
    experts: tuple[str, ...],
    stats: StepStats,
    missing: Mapping[int, float],
    name: Callable[[int], str],
) -> StepRecord:
    """The record of one step, whose token adds this text to the reply.

    ``missing``: by index of a remote expert, probability that its server did not list; ``name``:
    the text of a candidate by itself.

    Raises:
        EngineError: what the experts said of the token is no distribution.
    """
    if not stats.is_finite:
        raise EngineError(NOT_FINITE)
    chosen, *others = stats.log_probs
    rows = (*experts, PLAIN, ANCHOR)[: len(chosen) - 1]
    candidates = [
        Candidate(i, name(i), min(1.0, math.exp(row[0])), _named(rows, row[1:]))
        for i, row in zip(stats.candidates, others, strict=True)
    ]
    return StepRecord(
        index=index,
        token_id=stats.token,
        text=text,
        weights=_named(experts, stats.weights),
        probability=min(1.0, math.exp(chosen[0])),
        logprobs=_named(rows, chosen[1:]),
        entropy=stats.entropy,
        disagreement=stats.disagreement,
        divergence=stats.divergence,
        top_k=tuple(sorted(candidates, key=lambda candidate: -candidate.probability)),
        missing={experts[k]: mass for k, mass in missing.items()},
    )


def _named(names: tuple[str, ...], values: list[float]) -> dict[str, float]:
    return dict(zip(names, values, strict=True))


class Reply:
    """A sequence with what only the worker needs: its stream, its text and its random numbers."""

    def __init__(self, sequence: Sequence, stream: Stream, processor: RequestProcessor) -> None:
        """Begin where the sequence does: after its prefix, as if that had been drawn here."""
        self.sequence, self.stream = sequence, stream
        self._processor = processor
        self._decoder = StreamDecoder(processor.tokenizer, processor.end_of_turn)
        self._generator = torch.Generator().manual_seed(sequence.request.sampling.seed)
        for token in sequence.prefix:
            self.draw()
            self._decoder.push(token)

    def draw(self) -> float:
        """A number from [0, 1): one step's."""
        return draw(self._generator)

    def add(self, stats: StepStats, missing: Mapping[int, float]) -> FinishReason | None:
        """Take a step's token; why the reply is over with it, or None while it is not.

        Raises:
            EngineError: a distribution that is none, or a token that cannot be gone on from.
        """
        self.sequence.tokens.append(stats.token)
        finish = self._processor.finish(self.sequence)
        text = self._decoder.push(stats.token, last=finish is not None)
        index, experts = len(self.sequence.reply) - 1, self.stream.experts
        self.stream.put(make_step(index, text, experts, stats, missing, self._processor.name))
        return finish


def next_tokens(merged: Tensor, replies: list[Reply]) -> Tensor:
    """The next token of each reply, [R]: drawn from its mixture, or what its branch says.

    ``merged`` are log-probabilities of their mixtures, [R, V], in that order; each reply uses up
    one of its random numbers.
    """
    sequences = [reply.sequence for reply in replies]
    tokens = choose(
        merged,
        [sequence.request.sampling for sequence in sequences],
        [sequence.reply for sequence in sequences],
        [reply.draw() for reply in replies],
    )
    for place, sequence in enumerate(sequences):
        if sequence.forced_token is not None:
            tokens[place] = sequence.forced_token
    return tokens
