"""The slow decoder that cannot be wrong: no cache, no batch, one expert after the other.

The engine must give the same tokens and probabilities. Adapters run through PEFT's own forward
here, so that stacked LoRA is checked against it too.
"""

from __future__ import annotations

import shutil
from codecs import BOM_UTF8
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from mpd_core.engine.records import finish_reason, make_step, take_notes
from mpd_core.engine.runner import Distribution
from mpd_core.experts import ANCHOR, Row, make_plan
from mpd_core.merging import merge
from mpd_core.models.adapter_config import CONFIG_FILE
from mpd_core.models.adapters import WEIGHTS_FILE, load_adapter
from mpd_core.models.architecture import text_config
from mpd_core.models.base import LoadedModel, WeightFormat, load_model, weight_format
from mpd_core.models.linear import round_to
from mpd_core.models.pcm import load_head
from mpd_core.models.sources import obtain
from mpd_core.packs import Pack, Precision, Quantize, Source
from mpd_core.prompts import PromptRenderer, StreamDecoder, name_tokens
from mpd_core.request import GenerationRequest
from mpd_core.sampling import choose, draw
from mpd_core.trace import StepRecord


class ReferenceDecoder:
    """Runs a pack's requests token by token, recomputing everything at every step.

    Experts on other machines are not asked: it is for what runs here.
    """

    def __init__(
        self,
        pack: Pack,
        *,
        quantize: Quantize | None = None,
        precision: Precision | None = None,
        device: str = "cpu",
    ) -> None:
        """Load a pack's models; arguments and errors as ``Engine.open``."""
        spec = pack.spec
        quantize, precision = quantize or spec.base.quantize, precision or spec.base.precision
        base = _load(pack, spec.base.source, weight_format(device, quantize, precision))
        adapters = {n: pack.path(a.folder) for n, a in spec.experts.adapters.items()}
        if spec.experts.anchor:
            adapters[ANCHOR] = pack.path(spec.experts.anchor.folder)
        own = {"pcm": pack.path(spec.pcm.adapter.folder)} if spec.pcm.adapter else {}
        if spec.pcm.backbone == "base":
            self._model = self._backbone = _with_adapters(base, {**adapters, **own})
        else:
            backbone = _load(pack, spec.pcm.backbone, weight_format(device))
            self._model = _with_adapters(base, adapters)
            self._backbone = _with_adapters(backbone, own)
        self._others = {
            name: _load(pack, source, base.format).model
            for name, source in spec.experts.checkpoints.items()
        }
        models = (self._model, *self._others.values())
        self._vocabulary = min(text_config(model).vocab_size for model in models)
        file = pack.path(spec.pcm.head.file) if spec.pcm.head else None
        width = self._backbone.get_output_embeddings().in_features
        self._head = load_head(width, len(pack.space.poles), file).to(device)
        self._pack, self._tokenizer = pack, base.tokenizer
        self._name = name_tokens(self._tokenizer)
        self._prompts = PromptRenderer(base.tokenizer, spec.template)

    @torch.inference_mode()
    def decode(self, request: GenerationRequest) -> Iterator[StepRecord]:
        """The steps of a reply; errors as ``make_plan``."""
        preference = self._pack.space.parse(request.preference)
        plan = make_plan(self._pack, preference, request.method, request.space)
        names = tuple(row.name for row in plan.experts)
        decoder = StreamDecoder(self._tokenizer, self._prompts.end_of_turn)
        tokens = list[int]()
        generator = torch.Generator().manual_seed(request.sampling.seed)
        finish = None
        while finish is None:
            log_probs = torch.stack([self._log_probs(row, request, tokens) for row in plan.experts])
            weights = torch.tensor(plan.fixed, device=log_probs.device)
            if plan.pcm:
                weights = self._weights(plan.pcm, plan.poles, request, tokens)
            anchors = [self._log_probs(row, request, tokens) for row in plan.anchors]
            said = _distribution(request, log_probs, weights, anchors)
            chosen = choose(said.merged, [request.sampling], [tokens], [draw(generator)])
            (note,) = take_notes(said, chosen, self._pack.spec.decode.top_k_recorded)
            tokens.append(note.token)
            finish = finish_reason(tokens, request.sampling, self._prompts.end_of_turn)
            text = decoder.push(note.token, last=finish is not None)
            yield make_step(len(tokens) - 1, text, names, note, {}, self._name)

    def _log_probs(self, row: Row, request: GenerationRequest, tokens: list[int]) -> Tensor:
        ids = self._prompts.render(request.messages, row.instructions) + tokens
        logits = _run(self._others.get(row.model, self._model), row.adapters, ids).logits
        return torch.log_softmax(logits[0, -1, : self._vocabulary].float(), dim=-1)

    def _weights(
        self, row: Row, poles: tuple[int, ...], request: GenerationRequest, tokens: list[int]
    ) -> Tensor:
        ids = self._prompts.render(request.messages, row.instructions) + tokens
        last = text_config(self._backbone).vocab_size - 1
        hidden = _run(self._backbone, row.adapters, [min(i, last) for i in ids]).hidden_states[-1]
        chosen = torch.zeros(len(self._pack.space.poles), dtype=torch.bool, device=hidden.device)
        chosen[list(poles)] = True
        alpha: Tensor = self._head(hidden[0, -1], chosen)
        return alpha[list(poles)]


def _distribution(
    request: GenerationRequest, log_probs: Tensor, weights: Tensor, anchors: list[Tensor]
) -> Distribution:
    """Of one reply: the experts' [E, V], alpha [E] and the anchors' [V], merged as it asks for."""
    plain = torch.stack(anchors) if anchors else None
    how = (request.strength, request.plausibility)
    merged = merge(request.space, log_probs, weights, plain, *how)
    rows = plain[None] if plain is not None else None
    return Distribution(log_probs[None], weights[None], merged[None], request.space, rows)


def _load(pack: Pack, source: Source, format_: WeightFormat) -> LoadedModel:
    loaded = load_model(obtain(pack, source), format_)
    if format_.packed:
        round_to(loaded.model, format_.packed)  # the engine's weights, in plain fp32 arithmetic
    return loaded


def _with_adapters(loaded: LoadedModel, folders: dict[str, Path]) -> Any:
    model = loaded.model
    for name, folder in folders.items():
        load_adapter(name, folder)  # refuses what the engine refuses, in the same words
        with _plain(folder) as files:
            if isinstance(model, PeftModel):
                model.load_adapter(files, adapter_name=name)
            else:
                model = PeftModel.from_pretrained(model, files, adapter_name=name)
    if loaded.format.packed:
        round_to(model, loaded.format.packed)
    return model.eval()


@contextmanager
def _plain(folder: Path) -> Iterator[Path]:
    """An adapter's folder as PEFT can read it: without a mark before its configuration."""
    config = (folder / CONFIG_FILE).read_bytes()
    if not config.startswith(BOM_UTF8):
        yield folder
        return
    with TemporaryDirectory() as copied:
        (Path(copied) / CONFIG_FILE).write_bytes(config.removeprefix(BOM_UTF8))
        shutil.copy(folder / WEIGHTS_FILE, copied)
        yield Path(copied)


def _run(model: Any, mix: tuple[tuple[str, float], ...], ids: list[int]) -> Any:
    tokens = torch.tensor([ids], device=model.device)
    if not isinstance(model, PeftModel):
        return model(tokens, output_hidden_states=True)
    if not mix:
        with model.disable_adapter():
            return model(tokens, output_hidden_states=True)
    model.set_adapter(_merged(model, mix))
    return model(tokens, output_hidden_states=True)


def _merged(model: Any, mix: tuple[tuple[str, float], ...]) -> str:
    """The name of one PEFT adapter that stands for the mix, merged by PEFT itself."""
    names = [part for name, _ in mix for part in name.split("+")]
    if len(names) == 1:
        return names[0]
    products = len(mix) > 1
    merged = ("products_" if products else "factors_") + "_".join(names)
    if merged not in model.peft_config:
        # "linear" sums sqrt(weight) A and sqrt(weight) B: weight 1/n^2 gives both means.
        weights = [w for _, w in mix] if products else [1 / len(names) ** 2] * len(names)
        kind = "cat" if products else "linear"
        model.add_weighted_adapter(names, weights, merged, combination_type=kind)
    return merged
