"""Ways to run several experts and a PCM that others use, over PEFT and transformers."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import DynamicCache

from mpd_core.bench.schemes import AdapterInput, Loader, merge_adapter, replay, run_greedily
from mpd_core.bench.values import Ask, Replayed, Run, Spec
from mpd_core.engine.memory import held_bytes, process_memory
from mpd_core.method.merging import merge_probabilities
from mpd_core.models.architecture import cache_arguments
from mpd_core.models.pcm import load_head


class _Peer:
    """What the peers share: prompts, the weight head, Eq. 1, and the two ways to be run."""

    def __init__(self, spec: Spec) -> None:
        self.loader = Loader(spec)
        self.device = self.loader.format.device

    def decode(self, scheme: str, asks: tuple[Ask, ...], tokens: int) -> Run:
        return run_greedily(getattr(self, scheme), asks, tokens)

    def replay(
        self,
        scheme: str,
        ask: Ask,
        tokens: tuple[int, ...],
        candidates: tuple[tuple[int, ...], ...],
    ) -> Replayed:
        return replay(getattr(self, scheme), ask, tokens, candidates)

    def close(self) -> None:
        """Nothing is held open."""

    def _load_head(self, hidden: int) -> None:
        head = self.loader.pack.spec.pcm.head
        file = self.loader.pack.path(head.file) if head else None
        self._head = load_head(hidden, len(self.loader.pack.space.poles), file).to(self.device)

    def _merged(
        self, adapter_inputs: list[AdapterInput], log_probs: Tensor, hidden: Tensor
    ) -> Tensor:
        """Eq. 1 from the experts' log-probabilities [E, V] and the PCM's last state [D]."""
        poles = torch.tensor(
            [[source.pole for source in adapter_inputs[:-1]]], device=hidden.device
        )
        return merge_probabilities(log_probs, self._head.expert_weights(hidden[None], poles)[0])

    def _one(self, token: int) -> Tensor:
        return torch.tensor([[token]], device=self.device)


class PeftSide(_Peer):
    """One base with all adapters under PEFT, run in three ways."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        model = self.loader.model()
        names = [*self.loader.pack.spec.experts.adapters, "pcm"]
        first, *others = names
        options = {"autocast_adapter_dtype": False}
        folder = self.loader.adapter_folder
        self._model: Any = PeftModel.from_pretrained(
            model, folder(first), adapter_name=first, **options
        )
        for name in others:
            self._model.load_adapter(folder(name), adapter_name=name, **options)
        self._model.eval()
        self.loader.pack_linears(self._model)
        self._load_head(model.config.hidden_size)

    def loop(self, ask: Ask) -> Generator[Tensor, int, None]:
        """Multi-objective decoding as published: set an adapter, run, set the next; own caches."""
        adapter_inputs = self.loader.adapter_inputs(ask)
        inputs = [self.loader.ids(ask, source.instructions) for source in adapter_inputs]
        caches = [DynamicCache() for _ in adapter_inputs]
        while True:
            states = [
                self._body(source, ids, cache)
                for source, ids, cache in zip(adapter_inputs, inputs, caches, strict=True)
            ]
            token = yield self._eq1(adapter_inputs, states)
            inputs = [self._one(token)] * len(adapter_inputs)

    def nocache(self, ask: Ask) -> Generator[Tensor, int, None]:
        """The same without caches: the whole text at every token."""
        adapter_inputs = self.loader.adapter_inputs(ask)
        texts = [self.loader.ids(ask, source.instructions) for source in adapter_inputs]
        while True:
            states = [
                self._body(source, ids, None)
                for source, ids in zip(adapter_inputs, texts, strict=True)
            ]
            token = yield self._eq1(adapter_inputs, states)
            texts = [torch.cat([ids, self._one(token)], dim=1) for ids in texts]

    def batch(self, ask: Ask) -> Generator[Tensor, int, None]:
        """PEFT's mixed batch: a row for each adapter, padded on the left, in one forward."""
        adapter_inputs = self.loader.adapter_inputs(ask)
        prompts = [self.loader.ids(ask, source.instructions)[0] for source in adapter_inputs]
        longest = max(len(ids) for ids in prompts)
        tokens = torch.zeros(len(adapter_inputs), longest, dtype=torch.long, device=self.device)
        mask = torch.zeros_like(tokens)
        for row, ids in enumerate(prompts):
            tokens[row, longest - len(ids) :] = ids
            mask[row, longest - len(ids) :] = 1
        names, cache = [source.adapter for source in adapter_inputs], DynamicCache()
        positions = (mask.cumsum(dim=1) - 1).clamp_min(0)
        while True:
            said = self._model(
                input_ids=tokens,
                attention_mask=mask,
                position_ids=positions,
                **cache_arguments(self._model.get_base_model(), cache),
                adapter_names=names,
                output_hidden_states=True,
                logits_to_keep=1,
            )
            log_probs = torch.log_softmax(said.logits[:-1, -1].float(), dim=-1)
            token = yield self._merged(adapter_inputs, log_probs, said.hidden_states[-1][-1, -1])
            tokens = torch.full((len(adapter_inputs), 1), token, device=self.device)
            mask = torch.cat([mask, torch.ones_like(tokens)], dim=1)
            positions = positions[:, -1:] + 1

    def _body(self, source: AdapterInput, ids: Tensor, cache: DynamicCache | None) -> Tensor:
        """An adapter's last hidden state, [D]; what a PCM needs, and an output layer."""
        self._model.set_adapter(source.adapter)
        body = self._model.get_base_model().base_model
        said = body(input_ids=ids, **cache_arguments(body, cache))
        state: Tensor = said.last_hidden_state[0, -1]
        return state

    def _eq1(self, adapter_inputs: list[AdapterInput], states: list[Tensor]) -> Tensor:
        output = self._model.get_base_model().get_output_embeddings()
        logits = torch.stack([output(state[None])[0] for state in states[:-1]])
        return self._merged(adapter_inputs, torch.log_softmax(logits.float(), dim=-1), states[-1])


class SeparateSide(_Peer):
    """As many models as experts, and one for the PCM, each with its adapter merged into it."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        first = "A" * len(self.loader.pack.space.dimensions)
        self._models: dict[str, Any] = {}
        for source in self.loader.adapter_inputs(Ask("-", first)):
            model = self.loader.model()
            merge_adapter(model, self.loader, source.adapter)
            self.loader.pack_linears(model)
            self._models[source.adapter] = model
        self._load_head(model.config.hidden_size)

    def separate(self, ask: Ask) -> Generator[Tensor, int, None]:
        """One model after the other, each with its own cache."""
        adapter_inputs = self.loader.adapter_inputs(ask)
        models = [self._models[source.adapter] for source in adapter_inputs]
        inputs = [self.loader.ids(ask, source.instructions) for source in adapter_inputs]
        caches = [DynamicCache() for _ in adapter_inputs]
        while True:
            logits = [
                model(input_ids=ids, logits_to_keep=1, **cache_arguments(model, cache)).logits[
                    0, -1
                ]
                for model, ids, cache in list(zip(models, inputs, caches, strict=True))[:-1]
            ]
            body = models[-1].base_model
            pcm = body(input_ids=inputs[-1], **cache_arguments(body, caches[-1]))
            log_probs = torch.log_softmax(torch.stack(logits).float(), dim=-1)
            token = yield self._merged(adapter_inputs, log_probs, pcm.last_hidden_state[0, -1])
            inputs = [self._one(token)] * len(adapter_inputs)

    def memory(self) -> dict[str, Any]:
        """Bytes of the weights of all models, and of the process."""
        return {"weights": held_bytes(list(self._models.values())), **process_memory()}
