"""One plain model under ``transformers.generate``: as it is, and as a Personalized Soup."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from mpd_core.bench.schemes import Loader, mean_change, replay
from mpd_core.bench.values import Ask, Replayed, Run, Spec
from mpd_core.engine.memory import held_bytes, process_memory
from mpd_core.models.architecture import cache_arguments
from mpd_core.models.linear import PACKED


class _Clock:
    """A streamer that notes when each token comes."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self._prompt = True

    def put(self, _: Tensor) -> None:
        if not self._prompt:  # transformers hands over the prompt first
            self.times.append(time.monotonic())
        self._prompt = False

    def end(self) -> None:
        """Nothing is buffered."""


class PlainSide:
    """The base alone, and merged models made from it, a preference at a time."""

    def __init__(self, spec: Spec) -> None:
        self.loader = Loader(spec)
        self._model = self.loader.model()
        # The dense weights that adapters change stay beside packed ones: soups start from them.
        self._dense = {
            name: (module.weight.detach().clone(), module.bias)
            for name, module in self._model.named_modules()
            if type(module) is nn.Linear and module is not self._model.get_output_embeddings()
        }
        self.loader.pack_linears(self._model)
        self._mixed: str | None = None

    def close(self) -> None:
        """Nothing is held open."""

    def decode(self, asks: tuple[Ask, ...], tokens: int) -> Run:
        """One request after the other through ``generate``; vanilla, without instructions."""
        self._mix(None)
        start = time.monotonic()
        return self._generate(asks, tokens, start, 0.0)

    def soup(self, asks: tuple[Ask, ...], tokens: int) -> tuple[Run, float]:
        """Personalized Soup, one request after the other; the seconds that merging took, apart.

        Merged weights are made once a preference. A server could keep them all, so the run's
        clock stands still meanwhile: the best case for this opponent.
        """
        start, merging, runs = time.monotonic(), 0.0, []
        ordered = sorted(asks, key=lambda ask: ask.preference)
        for code, group in groupby(ordered, key=lambda ask: ask.preference):
            before = time.monotonic()
            self._mix(code)
            merging += time.monotonic() - before
            runs.append(self._generate(tuple(group), tokens, start, merging))
        replies = tuple(reply for run in runs for reply in run.tokens)
        return Run(replies, tuple(times for run in runs for times in run.stamps)), merging

    def replay(
        self, ask: Ask, tokens: tuple[int, ...], candidates: tuple[tuple[int, ...], ...]
    ) -> Replayed:
        """What the model, or the soup where the method is ``soup``, says of the candidates."""
        self._mix(ask.preference if ask.method == "soup" else None)
        return replay(self._cached, ask, tokens, candidates)

    def memory(self) -> dict[str, Any]:
        """Bytes of the model's weights, and of the process."""
        return {"weights": held_bytes(self._model), **process_memory()}

    def _cached(self, ask: Ask) -> Generator[Tensor, int, None]:
        ids, cache = self._ids(ask), DynamicCache()
        while True:
            said = self._model(
                input_ids=ids, logits_to_keep=1, **cache_arguments(self._model, cache)
            )
            token = yield torch.log_softmax(said.logits[0, -1].float(), dim=-1)
            ids = torch.tensor([[token]], device=ids.device)

    def _generate(self, asks: tuple[Ask, ...], tokens: int, start: float, uncounted: float) -> Run:
        replies, stamps = [], []
        for ask in asks:
            clock, ids = _Clock(), self._ids(ask)
            with torch.inference_mode():
                output = self._model.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=tokens,
                    do_sample=False,
                    streamer=clock,
                    pad_token_id=0,
                )
            replies.append(tuple(output[0, ids.shape[1] :].tolist()))
            stamps.append(tuple(when - start - uncounted for when in clock.times))
        return Run(tuple(replies), tuple(stamps))

    def _ids(self, ask: Ask) -> Tensor:
        poles = self.loader.pack.space.parse(ask.preference).poles
        spoken = tuple(pole.instruction for pole in poles) if ask.method == "soup" else ()
        return self.loader.ids(ask, spoken)

    @torch.no_grad()
    def _mix(self, code: str | None) -> None:
        """Make the model the soup of a preference, or the base again.

        4-bit weights are left alone: a soup would be quantised anew, at the same cost a token.
        """
        if code == self._mixed or self.loader.format.quantize != "none":
            return
        for name, weight in self._mixed_weights(code):
            if self.loader.format.packed:
                parent, _, child = name.rpartition(".")
                packed = PACKED[self.loader.format.packed](weight, self._dense[name][1])
                setattr(self._model.get_submodule(parent), child, packed)
            else:
                self._model.get_submodule(name).weight.copy_(weight)
        self._mixed = code

    def _mixed_weights(self, code: str | None) -> Iterator[tuple[str, Tensor]]:
        if code is None:
            yield from ((name, weight) for name, (weight, _) in self._dense.items())
            return
        names = tuple(pole.name for pole in self.loader.pack.space.parse(code).poles)
        for name, change in mean_change(self.loader, names):
            weight, _ = self._dense[name]
            yield name, weight + change.to(weight)
