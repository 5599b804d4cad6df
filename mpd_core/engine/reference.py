"""The oracle that the engine is held to: ``method.decode`` over transformers and PEFT.

No cache, no batch, one expert after the other. Adapters run through PEFT's own forward here, so
that stacked LoRA is checked against it too.
"""

from __future__ import annotations

import shutil
from codecs import BOM_UTF8
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from mpd_core.engine.distribution import Distribution
from mpd_core.engine.plan import ANCHOR, ExpertCall, ExpertPlan, plan_request
from mpd_core.engine.records import finish_reason, make_step
from mpd_core.engine.runner import strength_of
from mpd_core.method import decode
from mpd_core.method.decode import Reads
from mpd_core.method.weight_head import top_one
from mpd_core.models.adapter_config import CONFIG_FILE
from mpd_core.models.adapters import WEIGHTS_FILE, load_adapter
from mpd_core.models.architecture import text_config
from mpd_core.models.base import LoadedModel, WeightFormat, in_blocks, load_model, weight_format
from mpd_core.models.block_model import block_names
from mpd_core.models.linear import round_to
from mpd_core.models.llama import is_llama
from mpd_core.models.pcm import load_head
from mpd_core.packs import Pack, Precision, Quantize, Source
from mpd_core.prompts import PromptRenderer, StreamDecoder, name_tokens
from mpd_core.request import GenerationRequest
from mpd_core.sampling import choose, draw
from mpd_core.sources.obtain import obtain
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
        base = _load(pack, spec.base.source, weight_format(device, quantize, precision), precision)
        adapters = {n: pack.path(a.folder) for n, a in spec.experts.adapters.items()}
        if spec.experts.anchor:
            adapters[ANCHOR] = pack.path(spec.experts.anchor.folder)
        own = {"pcm": pack.path(spec.pcm.adapter.folder)} if spec.pcm.adapter else {}
        if spec.pcm.backbone == "base":
            self._model = self._backbone = _with_adapters(base, {**adapters, **own})
        else:
            backbone = _load(pack, spec.pcm.backbone, weight_format(device), "auto")
            self._model = _with_adapters(base, adapters)
            self._backbone = _with_adapters(backbone, own)
        self._others = {
            name: _load(pack, source, base.format, precision).model
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
        """The steps of a reply; errors as ``plan_request``."""
        preference = self._pack.space.parse(request.preference)
        plan = plan_request(self._pack, preference, request.method, request.space)
        names, sampling = tuple(call.name for call in plan.experts), request.sampling
        text = StreamDecoder(self._tokenizer, self._prompts.end_of_turn)
        generator = torch.Generator().manual_seed(sampling.seed)
        constant = torch.tensor(plan.fixed, device=self._model.device)
        steps = decode.decode(
            [self._expert(call, request) for call in plan.experts],
            self._pcm(plan, request) if plan.pcm else lambda _: constant,
            lambda merged, said: int(choose(merged[None], [sampling], [said], [draw(generator)])),
            end=self._prompts.end_of_turn,
            max_new_tokens=sampling.max_new_tokens,
            space=request.space,
            anchors=[self._expert(call, request) for call in plan.anchors],
            strength=lambda index: strength_of(request, torch.tensor(index)),
            plausibility=request.plausibility,
        )
        tokens = list[int]()
        for index, step in enumerate(steps):
            tokens.append(step.token)
            last = finish_reason(tokens, sampling, self._prompts.end_of_turn) is not None
            # One reply's step as the engine has it of several.
            anchors = step.anchors[None] if step.anchors is not None else None
            rows = (step.log_probs[None], step.weights[None], step.merged[None])
            said, token = Distribution(*rows, request.space, anchors), torch.tensor([step.token])
            (stats,) = said.describe(token, self._pack.spec.decode.top_k_recorded)
            added = text.push(step.token, last=last)
            yield make_step(index, added, names, stats, {}, self._name)

    def _expert(self, call: ExpertCall, request: GenerationRequest) -> Reads:
        prompt = self._prompts.render(request.messages, call.instructions)
        model = self._others.get(call.model, self._model)
        return decode.expert(
            lambda ids: _run(model, call.adapters, ids).logits[0, -1, : self._vocabulary], prompt
        )

    def _pcm(self, plan: ExpertPlan, request: GenerationRequest) -> Reads:
        call = plan.pcm
        assert call is not None
        prompt = self._prompts.render(request.messages, call.instructions)
        last = text_config(self._backbone).vocab_size - 1

        def state(ids: list[int]) -> Tensor:
            found = _run(self._backbone, call.adapters, [min(i, last) for i in ids])
            hidden: Tensor = found.hidden_states[-1][0, -1]
            return hidden

        weigh = decode.pcm(state, self._head, prompt, plan.poles)
        return (lambda reply: top_one(weigh(reply))) if plan.top else weigh


def _load(pack: Pack, source: Source, format_: WeightFormat, precision: Precision) -> LoadedModel:
    """The engine's weights, in plain fp32 arithmetic."""
    folder = obtain(pack, source)
    loaded = load_model(folder, format_)
    if is_llama(loaded.model) and in_blocks(format_, precision, folder).blocks:
        loaded = replace(loaded, kept=block_names(folder))
    _round(loaded, loaded.model)
    return loaded


def _round(loaded: LoadedModel, model: Any) -> None:
    """Linears and embeddings to what they are packed to; blocks are as they are."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    modules = (base.get_submodule(name.removesuffix(".weight")) for name in loaded.kept)
    if loaded.format.packed:
        kept = [getattr(module, "base_layer", module).weight for module in modules]
        round_to(model, loaded.format.packed, kept)


def _with_adapters(loaded: LoadedModel, folders: dict[str, Path]) -> Any:
    model = loaded.model
    for name, folder in folders.items():
        load_adapter(name, folder)  # refuses what the engine refuses, in the same words
        with _plain(folder) as files:
            if isinstance(model, PeftModel):
                model.load_adapter(files, adapter_name=name)
            else:
                model = PeftModel.from_pretrained(model, files, adapter_name=name)
    _round(loaded, model)
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
    adapted = isinstance(model, PeftModel)
    if mix:
        model.set_adapter(_merged(model, mix))
    with model.disable_adapter() if adapted and not mix else nullcontext():
        return model(torch.tensor([ids], device=model.device), output_hidden_states=True)


def _merged(model: Any, mix: tuple[tuple[str, float], ...]) -> str:
    """The name of one PEFT adapter that stands for the mix, merged by PEFT itself."""
    names = [part for name, _ in mix for part in name.split("+")]
    weights = [weight for _, weight in mix]
    if len(names) == 1 and weights == [1.0]:
        return names[0]
    products = len(mix) == len(names)
    each = "_".join(f"{weight:g}" for weight in weights).replace(".", "-")  # module names have no .
    merged = "_".join([*names, each])
    if merged not in model.peft_config:
        # "linear" sums sqrt(weight) A and sqrt(weight) B: weight 1/n^2 gives both means.
        shares = weights if products else [1 / len(names) ** 2] * len(names)
        kind = "cat" if products else "linear"
        model.add_weighted_adapter(names, shares, merged, combination_type=kind)
    return merged
