"""Ways to run several experts and a PCM that others use, over PEFT and transformers."""

from __future__ import annotations

from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from mpd_core.bench.schemes import AdapterInput, Peer, Scheme
from mpd_core.bench.values import Ask, Spec
from mpd_core.method.merging import merge_probabilities
from mpd_core.models.architecture import cache_arguments
from mpd_core.models.pcm import load_head


class _Mixture(Peer):
    """Eq. 1 over models that are run one after the other, each with its own cache."""

    def load_head(self, hidden: int) -> None:
        head = self.pack.spec.pcm.head
        file = self.pack.path(head.file) if head else None
        self._head = load_head(hidden, len(self.pack.space.poles), file).to(self.format.device)

    def use(self, source: AdapterInput) -> Any:
        """The model of transformers in which this adapter is now at work."""
        raise NotImplementedError

    def merged(self, inputs: list[AdapterInput], logits: Tensor, hidden: Tensor) -> Tensor:
        """Eq. 1 from the experts' logits [E, V] and the PCM's last state [D]."""
        poles = torch.tensor([[source.pole for source in inputs[:-1]]], device=hidden.device)
        log_probs = torch.log_softmax(logits.float(), dim=-1)
        return merge_probabilities(log_probs, self._head.expert_weights(hidden[None], poles)[0])

    def loop(self, ask: Ask, *, cached: bool = True) -> Scheme:
        """One adapter after the other; without caches, the whole text at every token."""
        sources = self.adapter_inputs(ask)
        texts = [self.ids(ask, source.instructions) for source in sources]
        caches = [DynamicCache() if cached else None for _ in sources]
        while True:
            logits = []
            for source, ids, cache in zip(sources, texts, caches, strict=True):
                model = self.use(source)
                body = model.base_model
                said = body(input_ids=ids, **cache_arguments(body, cache))
                state = said.last_hidden_state[0, -1]  # a PCM's is all that is asked of it
                if source is not sources[-1]:
                    logits.append(model.get_output_embeddings()(state[None])[0])
            token = self.one((yield self.merged(sources, torch.stack(logits), state)))
            texts = [token if cached else torch.cat([ids, token], dim=1) for ids in texts]


class PeftSide(_Mixture):
    """One base with all adapters under PEFT: ``loop`` is multi-objective decoding as published."""

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

    def use(self, source: AdapterInput) -> Any:
        self._model.set_adapter(source.adapter)
        return self._model.get_base_model()

    def nocache(self, ask: Ask) -> Scheme:
        return self.loop(ask, cached=False)

    def batch(self, ask: Ask) -> Scheme:
        """PEFT's mixed batch: a row for each adapter, padded on the left, in one forward."""
        sources = self.adapter_inputs(ask)
        prompts = [self.ids(ask, source.instructions)[0].flip(0) for source in sources]
        tokens = pad_sequence(prompts, batch_first=True, padding_value=-1).flip(1)
        mask, tokens = (tokens >= 0).long(), tokens.clamp_min(0)
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

    def use(self, source: AdapterInput) -> Any:
        return self.models[source.adapter]

    separate = _Mixture.loop
