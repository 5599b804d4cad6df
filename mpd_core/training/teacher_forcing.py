"""Teacher forcing: whole texts through several adapters of one base in one batched forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from mpd_core.models.adapters import LoraAdapter, lowest_layer
from mpd_core.models.base import fastest_precision, load_model, weight_format
from mpd_core.models.llama import is_llama
from mpd_core.models.rows import RowModel
from mpd_core.training.context import TrainingContext
from mpd_core.training.trunk import padded

Ids = Sequence[int]
AdapterMix = tuple[tuple[str, float], ...]


class TeacherForcing:
    """The base with some adapters; layers below all of them run once a text."""

    def __init__(
        self,
        setup: TrainingContext,
        adapters: Sequence[LoraAdapter],
        *,
        texts: int,
        length: int,
        mixes: Mapping[str, AdapterMix] | None = None,
    ) -> None:
        """Load the base, for at most so many ``texts`` of a pass of so many tokens each.

        They can be read through each adapter, and through ``mixes`` of them with their weights.

        Raises:
            PackError: an adapter that does not fit.
        """
        self.texts = texts
        self._mixes = {a.name: ((a.name, 1.0),) for a in adapters} | dict(mixes or {})
        base = load_model(setup.base, weight_format(precision=fastest_precision()))
        count = base.model.config.num_hidden_layers
        first = lowest_layer(adapters, count) if is_llama(base.model) else 0

        def part(layers: range | None, capacity: int, stacked: Sequence[Any]) -> RowModel:
            return RowModel(
                base.model,
                stacked,
                capacity=capacity,
                length=length,
                packed=base.format.packed,
                layers=layers,
            )

        self._trunk = part(range(first), texts, ()) if 0 < first < count else None
        upper = range(first, count) if self._trunk else None
        self._upper = part(upper, texts * max(1, len(adapters)), adapters)

    def batches(self, texts: Sequence[Ids]) -> Iterator[list[int]]:
        """Batches of indices of texts with similar length."""
        order = sorted(range(len(texts)), key=lambda k: len(texts[k]))
        for start in range(0, len(order), self.texts):
            yield order[start : start + self.texts]

    def read(
        self,
        prompts: Sequence[Ids],
        replies: Sequence[Ids],
        names: Sequence[Sequence[str]],
        *,
        title: str,
    ) -> Iterator[tuple[int, Iterator[Tensor]]]:
        """Log-probabilities before each token of each reply.

        Args:
            prompts: of each reply, as token ids.
            replies: of T tokens each; with the prompt not longer than ``length``.
            names: of each reply, as in ``states``.
            title: of the progress bar.

        Returns:
            Index of a reply, then for each of its names [T, V] in fp32 on the CPU, made when it is
            asked for; replies of similar length follow each other.
        """
        texts = [[*prompt, *reply] for prompt, reply in zip(prompts, replies, strict=True)]
        for batch in tqdm(list(self.batches(texts)), desc=title, leave=False):
            states = self.states([texts[k] for k in batch], [names[k] for k in batch])
            for k, rows in zip(batch, states, strict=True):
                own = [row[len(prompts[k]) - 1 : -1] for row in rows]
                yield k, (self.log_probs(*one).cpu() for one in zip(own, names[k], strict=True))

    def states(self, texts: Sequence[Ids], names: Sequence[Sequence[str]]) -> list[list[Tensor]]:
        """Last hidden states.

        Args:
            texts: at most as many as a pass takes.
            names: of each text, the adapters (or mixes) to read it through; others are the bare
                base.

        Returns:
            By text and adapter, [tokens of the text, D] on the model's device.
        """
        tokens = padded(torch.tensor(text) for text in texts)
        positions = torch.arange(tokens.shape[1]).expand_as(tokens)
        inputs = tokens
        if self._trunk is not None:
            inputs = self._trunk.forward(tokens, positions, 0, [()] * len(texts))
        owner = [row for row, some in enumerate(names) for _ in some]
        adapters = [self._mixes.get(name, ()) for some in names for name in some]
        rows = iter(self._upper.forward(inputs[owner], positions[owner], 0, adapters))
        return [
            [next(rows)[: len(text)] for _ in some] for text, some in zip(texts, names, strict=True)
        ]

    def log_probs(self, states: Tensor, name: str) -> Tensor:
        """Of the next token, [T, D] to [T, V] in fp32.

        ``name`` is of the adapter that the states were read through.
        """
        found: Tensor = self._upper.log_probs(states[None], [self._mixes.get(name, ())])[0]
        return found
