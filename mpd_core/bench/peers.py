"""What others run, over PEFT and transformers: several experts with a PCM, and one plain model.

A scheme yields the log-probabilities [V] of a token and is sent which was chosen. ``decode`` times
it; ``replay`` feeds it the engine's tokens, to see whether it gives the engine's distribution.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoTokenizer, DynamicCache

from mpd_core.bench.values import Spec, StepLogProbs, Timing
from mpd_core.method.merging import merge_probabilities
from mpd_core.method.preferences import Pole
from mpd_core.method.soup import mean_of_changes
from mpd_core.models.adapters import load_adapter
from mpd_core.models.architecture import cache_arguments
from mpd_core.models.base import load_model, weight_format
from mpd_core.models.files import LOCAL
from mpd_core.models.linear import PACKED, dense_linears, round_to
from mpd_core.models.pcm import load_head
from mpd_core.packs import load_pack
from mpd_core.prompts import PromptRenderer
from mpd_core.request import GenerationRequest

Scheme = Generator[Tensor, Any, None]


class Peer:
    """The bench's pack for transformers: the base, or the soup of one preference at a time."""

    model: Any = None  # where PEFT has all adapters: the base with them

    def __init__(self, spec: Spec) -> None:
        self.pack = load_pack(spec.scratch / "pack")
        base = self.pack.spec.base
        self.format = weight_format(spec.device, base.quantize, spec.precision)
        self.base = self.pack.path(base.source.folder)  # type: ignore[union-attr]
        tokenizer = AutoTokenizer.from_pretrained(self.base, **LOCAL)
        self.prompts = PromptRenderer(tokenizer, self.pack.spec.template)
        hidden = AutoConfig.from_pretrained(self.base, **LOCAL).hidden_size
        file, poles = self.pack.folder / "head.safetensors", len(self.pack.space.poles)
        self.head = load_head(hidden, poles, file).to(spec.device)
        self.models: dict[str, Any] = {}  # an adapter merged into each, by name; or the last soup

    def load(self) -> Any:
        """A new copy of the base, not yet packed; the same weights as a packed engine's."""
        model = load_model(self.base, self.format).model
        if self.format.packed:
            round_to(model, self.format.packed)
        model.generation_config.eos_token_id = None  # a fixed number of tokens
        return model

    @torch.no_grad()
    def merge(self, names: Sequence[str]) -> Any:
        """A copy of the base plus the mean of some adapters' changes, packed."""
        model = self.load()
        adapters = [load_adapter(name, self.pack.folder / name) for name in names]
        for module in adapters[0].factors if adapters else ():  # all target the same linears
            change = mean_of_changes([(a.scaling, *a.factors[module]) for a in adapters])
            weight = model.get_submodule(module).weight
            weight.add_(change.to(weight))
        return self.packed(model)

    def packed(self, model: Any) -> Any:
        """Put the engine's own product under a model of transformers or PEFT, if it uses it."""
        if self.format.packed:
            for parent, name, linear in list(dense_linears(model)):
                setattr(parent, name, PACKED[self.format.packed](linear.weight, linear.bias))
        return model

    def use(self, adapter: str) -> Any:
        """The model of transformers in which this adapter is now at work."""
        if adapter in self.models:
            return self.models[adapter]
        self.model.set_adapter(adapter)
        return self.model.get_base_model()

    def soup(self, poles: Sequence[Pole]) -> Any:
        """The soup of some poles, made unless it was the last; of none the base.

        4-bit weights are left alone: a soup would be quantised anew, at the same cost a token.
        """
        names = [pole.name for pole in poles] if self.format.quantize == "none" else []
        if (key := "+".join(names)) not in self.models:
            self.models = {key: self.merge(names)}
        return self.models[key]

    def poles(self, ask: GenerationRequest) -> tuple[Pole, ...]:
        return self.pack.space.parse(ask.preference).poles

    def spoken(self, ask: GenerationRequest) -> tuple[Pole, ...]:
        """The poles whose soup is asked for, which its prompt says, too; none of the base."""
        return self.poles(ask) if ask.method == "soup" else ()

    def ids(self, ask: GenerationRequest, poles: Sequence[Pole] = ()) -> Tensor:
        """A prompt with the sentences of some poles, [1, T]."""
        prompt = self.prompts.render(ask.messages, tuple(pole.instruction for pole in poles))
        return torch.tensor([prompt], device=self.format.device)

    def texts(self, ask: GenerationRequest) -> dict[str, Tensor]:
        """What each adapter reads: experts what the user wrote, the PCM the preference too."""
        poles = self.poles(ask)
        return {pole.name: self.ids(ask) for pole in poles} | {"pcm": self.ids(ask, poles)}

    def merged(self, ask: GenerationRequest, logits: Tensor, hidden: Tensor) -> Tensor:
        """Eq. 1 from the experts' logits [E, V] and the PCM's last state [D]."""
        outputs = [self.pack.space.poles.index(pole) for pole in self.poles(ask)]
        poles = torch.tensor([outputs], device=hidden.device)
        weights = self.head.expert_weights(hidden[None], poles)[0]
        return merge_probabilities(logits.float().log_softmax(dim=-1), weights)


def peft(spec: Spec) -> Peer:
    """One base with all adapters under PEFT."""
    peer = Peer(spec)
    first, *others = [*peer.pack.spec.experts.adapters, "pcm"]
    folder, options = peer.pack.folder, {"autocast_adapter_dtype": False}
    peer.model = PeftModel.from_pretrained(peer.load(), folder / first, first, **options)
    for name in others:
        peer.model.load_adapter(folder / name, adapter_name=name, **options)
    peer.packed(peer.model.eval())
    return peer


def separate(spec: Spec) -> Peer:
    """A model for each expert of the first preference, and for the PCM, adapters merged in."""
    peer = Peer(spec)
    for name in (*(dimension.poles[0].name for dimension in peer.pack.space.dimensions), "pcm"):
        peer.models[name] = peer.merge([name])
    return peer


def loop(peer: Peer, ask: GenerationRequest, *, cached: bool = True) -> Scheme:
    """Multi-objective decoding as published: one adapter after the other, each with its cache."""
    texts = peer.texts(ask)
    caches = {name: DynamicCache() if cached else None for name in texts}
    while True:
        logits = []
        for name, ids in texts.items():
            model = peer.use(name)
            body = model.base_model
            output = body(input_ids=ids, **cache_arguments(body, caches[name]))
            state = output.last_hidden_state[0, -1]  # of the PCM, the last, nothing else is asked
            if name != "pcm":
                logits.append(model.get_output_embeddings()(state[None])[0])
        token = torch.tensor([[(yield peer.merged(ask, torch.stack(logits), state))]]).to(ids)
        texts = {n: token if cached else torch.cat([i, token], 1) for n, i in texts.items()}


def nocache(peer: Peer, ask: GenerationRequest) -> Scheme:
    """The same without caches: the whole text at every token."""
    return loop(peer, ask, cached=False)


def batch(peer: Peer, ask: GenerationRequest) -> Scheme:
    """PEFT's mixed batch: a row for each adapter, padded on the left, in one forward."""
    texts = peer.texts(ask)
    prompts = [ids[0].flip(0) for ids in texts.values()]
    tokens = pad_sequence(prompts, batch_first=True, padding_value=-1).flip(1)
    mask, tokens = (tokens >= 0).long(), tokens.clamp_min(0)
    cache, positions = DynamicCache(), (mask.cumsum(dim=1) - 1).clamp_min(0)
    while True:
        output = peer.model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            **cache_arguments(peer.model.get_base_model(), cache),
            adapter_names=list(texts),
            output_hidden_states=True,
            logits_to_keep=1,
        )
        token = yield peer.merged(ask, output.logits[:-1, -1], output.hidden_states[-1][-1, -1])
        tokens = torch.full((len(texts), 1), token, device=mask.device)
        mask, positions = torch.cat([mask, torch.ones_like(tokens)], dim=1), positions[:, -1:] + 1


def cached(peer: Peer, ask: GenerationRequest) -> Scheme:
    """The plain model, or the soup where the method is ``soup``, with a cache."""
    poles, cache = peer.spoken(ask), DynamicCache()
    model, ids = peer.soup(poles), peer.ids(ask, poles)
    while True:
        output = model(input_ids=ids, logits_to_keep=1, **cache_arguments(model, cache))
        ids = torch.tensor([[(yield output.logits[0, -1].float().log_softmax(dim=-1))]]).to(ids)


@torch.inference_mode()
def decode(peer: Peer, scheme: Any, ask: GenerationRequest) -> Timing:
    """The likeliest token at every step."""
    start, steps = time.monotonic(), scheme(peer, ask)
    reply, times = list[int](), list[float]()
    for _ in range(ask.sampling.max_new_tokens):
        reply.append(int(steps.send(reply[-1] if reply else None).argmax()))
        times.append(time.monotonic() - start)
    return Timing([reply], [times])


@torch.inference_mode()
def replay(peer: Peer, scheme: Any, ask: GenerationRequest, ours: StepLogProbs) -> StepLogProbs:
    """What a scheme gives the engine's candidates, fed with the engine's tokens."""
    steps, found, fed = scheme(peer, ask), [], None
    for token, asked in ours:
        log_probs, fed = steps.send(fed), token
        found.append((int(log_probs.argmax()), {id_: float(log_probs[id_]) for id_ in asked}))
    return found


@torch.inference_mode()
def generate(peer: Peer, asks: Sequence[GenerationRequest]) -> Timing:
    """``transformers.generate``, one request after the other: vanilla, or Personalized Soup.

    Merged weights are made once a preference. A server could keep them all, so the run's clock
    stands still meanwhile: the best case for this opponent.
    """
    start, merging, replies, stamps = time.monotonic(), 0.0, [], []
    for ask in sorted(asks, key=lambda ask: ask.preference):
        poles, before, times = peer.spoken(ask), time.monotonic(), list[float]()
        model = peer.soup(poles)
        merging += time.monotonic() - before
        ids = peer.ids(ask, poles)
        output = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=ask.sampling.max_new_tokens,
            do_sample=False,
            pad_token_id=0,
            streamer=SimpleNamespace(
                put=lambda _, to=times: to.append(time.monotonic()), end=lambda: None
            ),
        )
        replies.append(output[0, ids.shape[1] :].tolist())
        stamps.append([when - start - merging for when in times[1:]])  # the prompt is put first
    return Timing(replies, stamps, merging)
