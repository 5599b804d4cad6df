"""One plain model under ``transformers.generate``: as it is, and as a Personalized Soup."""

from __future__ import annotations

import time
from itertools import groupby

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from mpd_core.bench.schemes import Peer, Scheme
from mpd_core.bench.values import Ask, Run, Spec
from mpd_core.models.architecture import cache_arguments
from mpd_core.models.linear import PACKED


class _Clock:
    """A streamer that notes when each token comes; transformers hands over the prompt first."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, _: Tensor) -> None:
        self.times.append(time.monotonic())

    def end(self) -> None:
        """Nothing is buffered."""


class PlainSide(Peer):
    """The base alone, and merged models made from it, a preference at a time."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self._model = self.model("base")
        # The dense weights that adapters change stay beside packed ones: soups start from them.
        self._dense = {
            name: (module.weight.detach().clone(), module.bias)
            for name, module in self._model.named_modules()
            if type(module) is nn.Linear and module is not self._model.get_output_embeddings()
        }
        self.pack_linears(self._model)
        self._mixed = ""

    def generate(self, asks: tuple[Ask, ...], tokens: int) -> Run:
        """One request after the other: vanilla, without instructions, or Personalized Soup.

        Merged weights are made once a preference. A server could keep them all, so the run's
        clock stands still meanwhile: the best case for this opponent.
        """
        start, merging, runs = time.monotonic(), 0.0, []
        for code, group in groupby(sorted(asks, key=_mixture), key=_mixture):
            before = time.monotonic()
            self._mix(code)
            merging += time.monotonic() - before
            runs += [self._reply(ask, tokens, start + merging) for ask in group]
        return Run.joined(runs, merging)

    def cached(self, ask: Ask) -> Scheme:
        """The model, or the soup where the method is ``soup``, with a cache."""
        self._mix(_mixture(ask))
        ids, cache = self._ids(ask), DynamicCache()
        while True:
            arguments = cache_arguments(self._model, cache)
            said = self._model(input_ids=ids, logits_to_keep=1, **arguments)
            token = yield torch.log_softmax(said.logits[0, -1].float(), dim=-1)
            ids = self.one(token)

    @torch.inference_mode()
    def _reply(self, ask: Ask, tokens: int, start: float) -> Run:
        clock, ids = _Clock(), self._ids(ask)
        output = self._model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            do_sample=False,
            streamer=clock,
            pad_token_id=0,
        )
        reply = tuple(output[0, ids.shape[1] :].tolist())
        return Run((reply,), (tuple(when - start for when in clock.times[1:]),))

    def _ids(self, ask: Ask) -> Tensor:
        poles = self.pack.space.parse(ask.preference).poles
        spoken = tuple(pole.instruction for pole in poles) if ask.method == "soup" else ()
        return self.ids(ask, spoken)

    @torch.no_grad()
    def _mix(self, code: str) -> None:
        """Make the model the soup of a preference, or with none the base again.

        4-bit weights are left alone: a soup would be quantised anew, at the same cost a token.
        """
        if code == self._mixed or self.format.quantize != "none":
            return
        names = [pole.name for pole in self.pack.space.parse(code).poles] if code else []
        changes = self.mean_change(names) if code else ((n, torch.zeros(())) for n in self._dense)
        for name, change in changes:
            weight, bias = self._dense[name]
            weight = weight + change.to(weight)
            if self.format.packed:
                parent, _, child = name.rpartition(".")
                packed = PACKED[self.format.packed](weight, bias)
                setattr(self._model.get_submodule(parent), child, packed)
            else:
                self._model.get_submodule(name).weight.copy_(weight)
        self._mixed = code


def _mixture(ask: Ask) -> str:
    """The preference that the weights are merged for; none for the base."""
    return ask.preference if ask.method == "soup" else ""
