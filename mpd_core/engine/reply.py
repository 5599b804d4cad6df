"""A reply as it is written: its next token is drawn, spelled, recorded and told to its stream."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mpd_core.engine.distribution import StepStats
from mpd_core.engine.processor import RequestProcessor
from mpd_core.engine.records import make_step
from mpd_core.engine.sequence import Sequence
from mpd_core.engine.stream import Stream
from mpd_core.sampling import choose, draw
from mpd_core.trace import FinishReason


class Reply:
    """A sequence with what only the worker needs: its stream, its text and its random numbers."""

    def __init__(self, sequence: Sequence, stream: Stream, processor: RequestProcessor) -> None:
        """Begin where the sequence does: after its prefix, as if that had been drawn here."""
        self.sequence, self.stream = sequence, stream
        self._processor = processor
        self._decoder = processor.decoder()
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

    Args:
        merged: log-probabilities of their mixtures, [R, V].
        replies: in that order; each uses up one of its random numbers.
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
