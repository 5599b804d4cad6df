"""How every peer decodes, whatever it runs: a scheme is a generator.

It yields the log-probabilities [V] of the next token and is sent the token that was chosen. The
same loop then times it, or feeds it the engine's tokens to see whether it says the same.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mpd_core.bench.values import Ask, Run, Said, Spec
from mpd_core.engine.memory import held_bytes, process_memory
from mpd_core.method.merging import entropy
from mpd_core.method.soup import mean_of_changes
from mpd_core.models.adapters import load_adapter
from mpd_core.models.base import load_model, weight_format
from mpd_core.models.linear import PACKED, dense_linears, round_to
from mpd_core.packs import FolderSource, Pack, load_pack
from mpd_core.prompts import PromptRenderer
from mpd_core.request import Message

Scheme = Generator[Tensor, int, None]


@dataclass(frozen=True)
class AdapterInput:
    """One adapter on the base, and what it reads."""

    adapter: str
    instructions: tuple[str, ...] = ()
    pole: int = -1
    """Of an expert: its output of the PCM's head."""


class Peer:
    """The bench's pack loaded for transformers: models, the engine's prompts, timed schemes."""

    def __init__(self, spec: Spec) -> None:
        self.pack: Pack = load_pack(spec.folder)
        quantize = self.pack.spec.base.quantize
        self.format = weight_format(spec.device, quantize, spec.precision)
        self._rounded = self.format.packed or (torch.float16 if spec.half_weights else None)
        source = self.pack.spec.base.source
        assert isinstance(source, FolderSource)  # the bench wrote it
        self.base = self.pack.path(source.folder)
        self.models: dict[str, Any] = {}

    def model(self, name: str) -> Any:
        """A new copy of the base, not yet packed; the same weights as the engine's."""
        loaded = load_model(self.base, self.format)
        if self._rounded:
            round_to(loaded.model, self._rounded)
        self._prompts = PromptRenderer(loaded.tokenizer, self.pack.spec.template)
        loaded.model.generation_config.eos_token_id = None  # a fixed number of tokens
        self.models[name] = loaded.model
        return loaded.model

    def pack_linears(self, model: nn.Module) -> None:
        """Put the engine's own product under a model of transformers or PEFT, if it uses it."""
        if self.format.packed:
            for parent, name, linear in list(dense_linears(model)):
                setattr(parent, name, PACKED[self.format.packed](linear.weight, linear.bias))

    def adapter_inputs(self, ask: Ask) -> list[AdapterInput]:
        """The chosen experts of Eq. 1, which read what the user wrote, and last the PCM."""
        poles = self.pack.space.parse(ask.preference).poles
        experts = [AdapterInput(pole.name, (), self.pack.space.poles.index(pole)) for pole in poles]
        return [*experts, AdapterInput("pcm", tuple(pole.instruction for pole in poles))]

    def ids(self, ask: Ask, instructions: tuple[str, ...]) -> Tensor:
        """A prompt with some preference sentences, [1, T]."""
        prompt = self._prompts.render((Message("user", ask.prompt),), instructions)
        return torch.tensor([prompt], device=self.format.device)

    def one(self, token: int) -> Tensor:
        """A token as the next input, [1, 1]."""
        return torch.tensor([[token]], device=self.format.device)

    def adapter_folder(self, name: str) -> Path:
        """Where the adapter of a pole, or ``pcm``, lies."""
        pcm = self.pack.spec.pcm.adapter
        spec = pcm if name == "pcm" and pcm else self.pack.spec.experts.adapters[name]
        return self.pack.path(spec.folder)

    @torch.no_grad()
    def mean_change(self, names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
        """Each module with the mean of ``scaling * B A`` over some adapters, [out, in]."""
        adapters = [load_adapter(name, self.adapter_folder(name)) for name in names]
        for module in adapters[0].factors:  # the bench's adapters all target the same linears
            factors = [(adapter.scaling, *adapter.factors[module]) for adapter in adapters]
            yield module, mean_of_changes(factors)

    @torch.inference_mode()
    def decode(self, scheme: str, asks: tuple[Ask, ...], tokens: int) -> Run:
        """One request after the other, the likeliest token at every step."""
        start, replies, stamps = time.monotonic(), [], []
        for ask in asks:
            steps, reply, times = getattr(self, scheme)(ask), list[int](), list[float]()
            for _ in range(tokens):
                reply.append(int(steps.send(reply[-1] if reply else None).argmax()))
                times.append(time.monotonic() - start)
            replies.append(tuple(reply))
            stamps.append(tuple(times))
        return Run(tuple(replies), tuple(stamps))

    @torch.inference_mode()
    def replay(self, scheme: str, ask: Ask, said: Said) -> Said:
        """What a scheme says of the engine's candidates, fed with the engine's tokens."""
        steps = getattr(self, scheme)(ask)
        heard = [steps.send(token) for token in (None, *said.tokens[:-1])]
        pairs = zip(heard, said.candidates, strict=True)
        return Said(
            tokens=tuple(int(log_probs.argmax()) for log_probs in heard),
            log_probs=tuple(tuple(lp[list(ids)].tolist()) for lp, ids in pairs),
            entropies=tuple(float(entropy(log_probs)) for log_probs in heard),
        )

    def memory(self) -> dict[str, Any]:
        """Bytes of the weights of all models, and of the process."""
        return {"weights": held_bytes(list(self.models.values())), **process_memory()}
