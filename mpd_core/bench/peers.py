"""What others run, over PEFT and transformers: several experts with a PCM, and one plain model."""

from __future__ import annotations

import copy
import time
from abc import ABC, abstractmethod
from itertools import groupby
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from mpd_core.bench.schemes import Peer, Scheme
from mpd_core.bench.values import Query, Spec, Timing
from mpd_core.method.merging import merge_probabilities
from mpd_core.models.architecture import cache_arguments
from mpd_core.models.pcm import load_head


class _Mixture(Peer, ABC):
    """Eq. 1 over models that are run one after the other, each with its own cache."""

    def load_head(self, hidden: int) -> None:
        head = self.pack.spec.pcm.head
        file = self.pack.path(head.file) if head else None
        self._head = load_head(hidden, len(self.pack.space.poles), file).to(self.format.device)

    @abstractmethod
    def use(self, adapter: str) -> Any:
        """The model of transformers in which this adapter is now at work."""

    def texts(self, ask: Query) -> dict[str, Tensor]:
        """What each adapter reads: experts what the user wrote, the PCM the preference too."""
        poles = self.poles(ask)
        instructions = tuple(pole.instruction for pole in poles)
        return {p.name: self.ids(ask) for p in poles} | {"pcm": self.ids(ask, instructions)}

    def merged(self, ask: Query, logits: Tensor, hidden: Tensor) -> Tensor:
        """Eq. 1 from the experts' logits [E, V] and the PCM's last state [D]."""
        outputs = [self.pack.space.poles.index(pole) for pole in self.poles(ask)]
        poles = torch.tensor([outputs], device=hidden.device)
        log_probs = torch.log_softmax(logits.float(), dim=-1)
        return merge_probabilities(log_probs, self._head.expert_weights(hidden[None], poles)[0])

    def loop(self, ask: Query, *, cached: bool = True) -> Scheme:
        """One adapter after the other; without caches, the whole text at every token."""
        texts = self.texts(ask)
        caches = {name: DynamicCache() if cached else None for name in texts}
        while True:
            logits = []
            for name, ids in texts.items():
                model = self.use(name)
                body = model.base_model
                said = body(input_ids=ids, **cache_arguments(body, caches[name]))
                state = said.last_hidden_state[0, -1]  # a PCM's, the last, is all it is asked for
                if name != "pcm":
                    logits.append(model.get_output_embeddings()(state[None])[0])
            token = self.one((yield self.merged(ask, torch.stack(logits), state)))
            texts = {n: token if cached else torch.cat([i, token], 1) for n, i in texts.items()}


class PeftSide(_Mixture):
    """One base with all adapters under PEFT: ``loop`` is multi-objective decoding as published."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        base = self.load()
        first, *others = [*self.pack.spec.experts.adapters, "pcm"]
        options = {"autocast_adapter_dtype": False}
        self._model: Any = PeftModel.from_pretrained(
            base, self.adapter_folder(first), adapter_name=first, **options
        )
        for name in others:
            self._model.load_adapter(self.adapter_folder(name), adapter_name=name, **options)
        self.pack_linears(self._model.eval())
        self.load_head(base.config.hidden_size)

    def use(self, adapter: str) -> Any:
        self._model.set_adapter(adapter)
        return self._model.get_base_model()

    def nocache(self, ask: Query) -> Scheme:
        return self.loop(ask, cached=False)

    def batch(self, ask: Query) -> Scheme:
        """PEFT's mixed batch: a row for each adapter, padded on the left, in one forward."""
        texts = self.texts(ask)
        prompts = [ids[0].flip(0) for ids in texts.values()]
        tokens = pad_sequence(prompts, batch_first=True, padding_value=-1).flip(1)
        mask, tokens = (tokens >= 0).long(), tokens.clamp_min(0)
        cache, positions = DynamicCache(), (mask.cumsum(dim=1) - 1).clamp_min(0)
        while True:
            said = self._model(
                input_ids=tokens,
                attention_mask=mask,
                position_ids=positions,
                **cache_arguments(self._model.get_base_model(), cache),
                adapter_names=list(texts),
                output_hidden_states=True,
                logits_to_keep=1,
            )
            token = yield self.merged(ask, said.logits[:-1, -1], said.hidden_states[-1][-1, -1])
            tokens = torch.full((len(texts), 1), token, device=mask.device)
            mask = torch.cat([mask, torch.ones_like(tokens)], dim=1)
            positions = positions[:, -1:] + 1


class SeparateSide(_Mixture):
    """As many models as experts, and one for the PCM, each with its adapter merged into it."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        first = self.pack.space.parse("A" * len(self.pack.space.dimensions))
        for name in (*(pole.name for pole in first.poles), "pcm"):
            self.models[name] = self.merge(self.load(), [name])
        self.load_head(self.models["pcm"].config.hidden_size)

    def use(self, adapter: str) -> Any:
        return self.models[adapter]

    separate = _Mixture.loop


class _Clock:
    """A streamer that notes when each token comes; transformers hands over the prompt first."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, _: Tensor) -> None:
        self.times.append(time.monotonic())

    def end(self) -> None:
        """Nothing is buffered."""


class PlainSide(Peer):
    """``transformers.generate`` with the base, or with the soup of one preference at a time."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self._dense, self._mixed = self.load(), "-"
        self._mix("")

    def generate(self, asks: tuple[Query, ...], tokens: int) -> Timing:
        """One request after the other: vanilla, without instructions, or Personalized Soup.

        Merged weights are made once a preference. A server could keep them all, so the run's
        clock stands still meanwhile: the best case for this opponent.
        """
        start, merging, runs = time.monotonic(), 0.0, []
        for code, group in groupby(sorted(asks, key=_soup_of), key=_soup_of):
            before = time.monotonic()
            self._mix(code)
            merging += time.monotonic() - before
            runs += [self._reply(ask, tokens, start + merging) for ask in group]
        return Timing.joined(runs, merging)

    def cached(self, ask: Query) -> Scheme:
        """The model, or the soup where the method is ``soup``, with a cache."""
        self._mix(_soup_of(ask))
        ids, cache = self._prompt(ask), DynamicCache()
        while True:
            arguments = cache_arguments(self._model, cache)
            said = self._model(input_ids=ids, logits_to_keep=1, **arguments)
            ids = self.one((yield torch.log_softmax(said.logits[0, -1].float(), dim=-1)))

    @torch.inference_mode()
    def _reply(self, ask: Query, tokens: int, start: float) -> Timing:
        clock, ids = _Clock(), self._prompt(ask)
        output = self._model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            do_sample=False,
            streamer=clock,
            pad_token_id=0,
        )
        reply = tuple(output[0, ids.shape[1] :].tolist())
        return Timing((reply,), (tuple(when - start for when in clock.times[1:]),))

    def _prompt(self, ask: Query) -> Tensor:
        spoken = self.poles(ask) if ask.method == "soup" else ()
        return self.ids(ask, tuple(pole.instruction for pole in spoken))

    def _mix(self, code: str) -> None:
        """Make the model the soup of a preference, or with none the base again.

        4-bit weights are left alone: a soup would be quantised anew, at the same cost a token.
        """
        if self.format.quantize != "none":
            self._model = self._dense
        elif code != self._mixed:
            names = [pole.name for pole in self.pack.space.parse(code).poles] if code else []
            self._model = self.merge(copy.deepcopy(self._dense), names)
            self._mixed = code


def _soup_of(ask: Query) -> str:
    """The preference that the weights are merged for; none for the base."""
    return ask.preference if ask.method == "soup" else ""
