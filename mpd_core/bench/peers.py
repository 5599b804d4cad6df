"""Ways to run several experts and a PCM that others use, over PEFT and transformers."""

from __future__ import annotations

from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import DynamicCache

from mpd_core.bench.schemes import AdapterInput, Peer, Scheme
from mpd_core.bench.values import Ask, Spec
from mpd_core.method.merging import merge_probabilities
from mpd_core.models.architecture import cache_arguments
from mpd_core.models.pcm import load_head


class _Mixture(Peer):
    """Eq. 1 over whatever gives log-probabilities."""

    def load_head(self, hidden: int) -> None:
        head = self.pack.spec.pcm.head
        file = self.pack.path(head.file) if head else None
        self._head = load_head(hidden, len(self.pack.space.poles), file).to(self.format.device)

    def merged(self, inputs: list[AdapterInput], logits: Tensor, hidden: Tensor) -> Tensor:
        """Eq. 1 from the experts' logits [E, V] and the PCM's last state [D]."""
        poles = torch.tensor([[source.pole for source in inputs[:-1]]], device=hidden.device)
        log_probs = torch.log_softmax(logits.float(), dim=-1)
        return merge_probabilities(log_probs, self._head.expert_weights(hidden[None], poles)[0])


class PeftSide(_Mixture):
    """One base with all adapters under PEFT, run in three ways."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        base = self.model("base")
        first, *others = [*self.pack.spec.experts.adapters, "pcm"]
        options = {"autocast_adapter_dtype": False}
        self._model: Any = PeftModel.from_pretrained(
            base, self.adapter_folder(first), adapter_name=first, **options
        )
        for name in others:
            self._model.load_adapter(self.adapter_folder(name), adapter_name=name, **options)
        self._model.eval()
        self.pack_linears(self._model)
        self.load_head(base.config.hidden_size)

    def loop(self, ask: Ask) -> Scheme:
        """Multi-objective decoding as published: set an adapter, run, set the next; own caches."""
        sources = self.adapter_inputs(ask)
        inputs = [self.ids(ask, source.instructions) for source in sources]
        caches = [DynamicCache() for _ in sources]
        while True:
            states = list(map(self._body, sources, inputs, caches))
            token = yield self._eq1(sources, states)
            inputs = [self.one(token)] * len(sources)

    def nocache(self, ask: Ask) -> Scheme:
        """The same without caches: the whole text at every token."""
        sources = self.adapter_inputs(ask)
        texts = [self.ids(ask, source.instructions) for source in sources]
        while True:
            states = list(map(self._body, sources, texts))
            token = yield self._eq1(sources, states)
            texts = [torch.cat([ids, self.one(token)], dim=1) for ids in texts]

    def batch(self, ask: Ask) -> Scheme:
        """PEFT's mixed batch: a row for each adapter, padded on the left, in one forward."""
        sources = self.adapter_inputs(ask)
        prompts = [self.ids(ask, source.instructions)[0] for source in sources]
        longest = max(len(ids) for ids in prompts)
        tokens = torch.zeros(len(sources), longest, dtype=torch.long, device=self.format.device)
        mask = torch.zeros_like(tokens)
        for row, ids in enumerate(prompts):
            tokens[row, longest - len(ids) :] = ids
            mask[row, longest - len(ids) :] = 1
        cache, positions = DynamicCache(), (mask.cumsum(dim=1) - 1).clamp_min(0)
        while True:
            said = self._model(
                input_ids=tokens,
                attention_mask=mask,
                position_ids=positions,
                **cache_arguments(self._model.get_base_model(), cache),
                adapter_names=[source.adapter for source in sources],
                output_hidden_states=True,
                logits_to_keep=1,
            )
            token = yield self.merged(sources, said.logits[:-1, -1], said.hidden_states[-1][-1, -1])
            tokens = torch.full((len(sources), 1), token, device=mask.device)
            mask = torch.cat([mask, torch.ones_like(tokens)], dim=1)
            positions = positions[:, -1:] + 1

    def _body(self, source: AdapterInput, ids: Tensor, cache: DynamicCache | None = None) -> Tensor:
        """An adapter's last hidden state, [D]; what a PCM needs, and an output layer."""
        self._model.set_adapter(source.adapter)
        body = self._model.get_base_model().base_model
        said = body(input_ids=ids, **cache_arguments(body, cache))
        state: Tensor = said.last_hidden_state[0, -1]
        return state

    def _eq1(self, sources: list[AdapterInput], states: list[Tensor]) -> Tensor:
        output = self._model.get_base_model().get_output_embeddings()
        logits = torch.stack([output(state[None])[0] for state in states[:-1]])
        return self.merged(sources, logits, states[-1])


class SeparateSide(_Mixture):
    """As many models as experts, and one for the PCM, each with its adapter merged into it."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        first = "A" * len(self.pack.space.dimensions)
        for source in self.adapter_inputs(Ask("-", first)):
            model = self.model(source.adapter)
            with torch.no_grad():
                for module, change in self.mean_change([source.adapter]):
                    weight = model.get_submodule(module).weight
                    weight.add_(change.to(weight))
            self.pack_linears(model)
        self.load_head(model.config.hidden_size)

    def separate(self, ask: Ask) -> Scheme:
        """One model after the other, each with its own cache."""
        sources = self.adapter_inputs(ask)
        models = [self.models[source.adapter] for source in sources]
        inputs = [self.ids(ask, source.instructions) for source in sources]
        caches = [DynamicCache() for _ in sources]
        body = models[-1].base_model
        while True:
            experts = zip(models[:-1], inputs[:-1], caches[:-1], strict=True)
            logits = [
                m(input_ids=ids, logits_to_keep=1, **cache_arguments(m, cache)).logits[0, -1]
                for m, ids, cache in experts
            ]
            pcm = body(input_ids=inputs[-1], **cache_arguments(body, caches[-1]))
            token = yield self.merged(sources, torch.stack(logits), pcm.last_hidden_state[0, -1])
            inputs = [self.one(token)] * len(sources)
