"""How every peer decodes, whatever it runs: a scheme is a generator.

It yields the log-probabilities [V] of the next token and is sent the token that was chosen. The
same loop then times it, or feeds it the engine's tokens to see whether it says the same.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mpd_core.bench.values import Query, Spec, StepLogProbs, Timing
from mpd_core.engine.memory import held_bytes, process_memory
from mpd_core.method.preferences import Pole
from mpd_core.method.soup import mean_of_changes
from mpd_core.models.adapters import load_adapter
from mpd_core.models.base import load_model, weight_format
from mpd_core.models.linear import PACKED, dense_linears, round_to
from mpd_core.packs import FolderSource, load_pack
from mpd_core.prompts import PromptRenderer
from mpd_core.request import Message

Scheme = Generator[Tensor, int, None]


class Peer:
    """The bench's pack loaded for transformers: models, the engine's prompts, timed schemes."""

    def __init__(self, spec: Spec) -> None:
        self.pack = load_pack(spec.folder)
        base = self.pack.spec.base
        self.format = weight_format(spec.device, base.quantize, spec.precision)
        self._rounded = self.format.packed or (torch.float16 if spec.half_weights else None)
        assert isinstance(base.source, FolderSource)  # the bench wrote it
        self.base = self.pack.path(base.source.folder)
        self.models: dict[str, Any] = {}

    def close(self) -> None:
        """Nothing is left open."""

    def load(self) -> Any:
        """A new copy of the base, not yet packed; the same weights as the engine's."""
        loaded = load_model(self.base, self.format)
        if self._rounded:
            round_to(loaded.model, self._rounded)
        self.prompts = PromptRenderer(loaded.tokenizer, self.pack.spec.template)
        loaded.model.generation_config.eos_token_id = None  # a fixed number of tokens
        return loaded.model

    @torch.no_grad()
    def merge(self, model: Any, names: Sequence[str]) -> Any:
        """Add the mean of some adapters' changes to a model's weights, and then pack them."""
        adapters = [load_adapter(name, self.adapter_folder(name)) for name in names]
        for module in adapters[0].factors if adapters else ():  # all target the same linears
            change = mean_of_changes([(a.scaling, *a.factors[module]) for a in adapters])
            weight = model.get_submodule(module).weight
            weight.add_(change.to(weight))
        return self.pack_linears(model)

    def pack_linears(self, model: nn.Module) -> Any:
        """Put the engine's own product under a model of transformers or PEFT, if it uses it."""
        if self.format.packed:
            for parent, name, linear in list(dense_linears(model)):
                setattr(parent, name, PACKED[self.format.packed](linear.weight, linear.bias))
        return model

    def poles(self, ask: Query) -> tuple[Pole, ...]:
        return self.pack.space.parse(ask.preference).poles

    def ids(self, ask: Query, instructions: tuple[str, ...] = ()) -> Tensor:
        """A prompt with some preference sentences, [1, T]."""
        prompt = self.prompts.render((Message("user", ask.prompt),), instructions)
        return torch.tensor([prompt], device=self.format.device)

    def one(self, token: int) -> Tensor:
        """A token as the next input, [1, 1]."""
        return torch.tensor([[token]], device=self.format.device)

    def adapter_folder(self, name: str) -> Path:
        """Where the adapter of a pole, or ``pcm``, lies."""
        pcm = self.pack.spec.pcm.adapter
        spec = pcm if name == "pcm" and pcm else self.pack.spec.experts.adapters[name]
        return self.pack.path(spec.folder)

    @torch.inference_mode()
    def decode(self, scheme: str, ask: Query, tokens: int) -> Timing:
        """The likeliest token at every step."""
        start, steps = time.monotonic(), getattr(self, scheme)(ask)
        reply, times = list[int](), list[float]()
        for _ in range(tokens):
            reply.append(int(steps.send(reply[-1] if reply else None).argmax()))
            times.append(time.monotonic() - start)
        return Timing((tuple(reply),), (tuple(times),))

    @torch.inference_mode()
    def replay(self, scheme: str, ask: Query, said: StepLogProbs) -> StepLogProbs:
        """What a scheme says of the engine's candidates, fed with the engine's tokens."""
        steps, fed = getattr(self, scheme)(ask), (None, *(token for token, _ in said))
        heard = [steps.send(token) for token in fed[:-1]]
        return tuple(
            (int(found.argmax()), dict(zip(asked, found[list(asked)].tolist(), strict=True)))
            for found, (_, asked) in zip(heard, said, strict=True)
        )

    def memory(self) -> dict[str, Any]:
        """Bytes of the weights of all models, and of the process."""
        return {"weights": held_bytes(list(self.models.values())), **process_memory()}
