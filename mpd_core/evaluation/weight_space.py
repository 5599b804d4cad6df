"""Baselines in weight space as PEFT ships them: merging by TIES and DARE, and Arrow routing.

They need one model with every chosen expert. Like the soup they read all instructions.

TIES (Yadav et al., 2023), DARE (Yu et al., 2024): PEFT's ``add_weighted_adapter``, which works on A
and B apart and gives an adapter like any other: the engine serves it, see ``generators``. Arrow
(Ostapenko et al., 2024): at every layer and token, experts are weighed by how much of the input
lies along the first right singular vector of each. That runs beside the engine, through
transformers' own forward, with the engine's prompts, penalties and draw.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from peft import ArrowConfig, LoraConfig, PeftModel
from torch import nn
from transformers import DynamicCache

from mpd_core.engine.records import finish_reason
from mpd_core.errors import MPDError, RequestError, one_line
from mpd_core.evaluation.jobs import DARE, DENSITY, ROUTED, TEMPERATURE, TIES, Job, Outcomes, row_of
from mpd_core.method.preferences import Pole
from mpd_core.models.architecture import cache_arguments
from mpd_core.models.base import load_model, weight_format
from mpd_core.models.linear import PACKED, dense_linears, round_to, type_of_adapters
from mpd_core.packs import Pack, Quantize
from mpd_core.prompts import PromptRenderer, StreamDecoder
from mpd_core.sampling import choose, draw
from mpd_core.sources.obtain import obtain

SEED = 0
"""Of what DARE drops, and of Arrow's power iteration."""
MERGED, ROUTER = "merged", "arrow_router"
TOGETHER, MOST_TOKENS = 32, 16_384
"""Replies of one batch, all of one preference, and their tokens, prompts included: a cache of
transformers is padded to the longest."""
Prompted = tuple[Job, list[int]]
"""A job with its prompt's token ids."""


class WeightSpace:
    """The base with a pack's experts in PEFT's own model; errors as ``Engine.open``."""

    def __init__(
        self, pack: Pack, *, quantize: Quantize | None = None, device: str | None = None
    ) -> None:
        spec = pack.spec.base
        self._format = weight_format(device, quantize or spec.quantize, spec.precision)
        loaded = load_model(obtain(pack, spec.source), self._format)
        self._base, self._tokenizer, self._pack = loaded.model, loaded.tokenizer, pack
        self._prompts = PromptRenderer(loaded.tokenizer, pack.spec.template)
        self._products: dict[nn.Linear, nn.Module] = {}
        if self._format.packed:
            round_to(self._base, self._format.packed)

    @torch.inference_mode()
    def outcomes(self, jobs: Sequence[Job]) -> Outcomes:
        """The row or error of each job; jobs that share a merged model are batched."""
        shared = attrgetter("method", "code")
        for (method, code), group in itertools.groupby(sorted(jobs, key=shared), shared):
            alike = list(group)
            try:
                with self.merged(method, self._pack.space.parse(code).poles) as model:
                    yield from self._replies(model, alike)
            except MPDError as error:
                yield from ((job, error) for job in alike)

    @torch.inference_mode()
    def save(self, method: str, poles: Sequence[Pole], folder: Path) -> Path:
        """Write the adapter of TIES or DARE as PEFT does; its folder. Errors as ``merged``."""
        with self._joined(method, poles) as model:
            model.save_pretrained(folder, selected_adapters=[MERGED], save_embedding_layers=False)
        return folder / MERGED

    @contextmanager
    def merged(self, method: str, poles: Sequence[Pole]) -> Iterator[Any]:
        """The model for one preference as it is served, for as long as the block lasts: weights
        rounded as the engine's, and its products under the adapters.

        Raises:
            RequestError: experts that PEFT cannot merge in this way.
        """
        with self._joined(method, poles) as model:
            kind = self._format.packed
            if kind is None:
                yield model
                return
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    parameter.copy_(parameter.to(type_of_adapters(kind)))
            plain = list(dense_linears(model))
            for parent, name, linear in plain:
                if linear not in self._products:  # made once, for whatever adapters come on top
                    self._products[linear] = PACKED[kind](linear.weight, linear.bias)
                setattr(parent, name, self._products[linear])
            try:
                yield model
            finally:
                for parent, name, linear in plain:
                    setattr(parent, name, linear)

    @contextmanager
    def _joined(self, method: str, poles: Sequence[Pole]) -> Iterator[Any]:
        """The base with the experts, and with the adapter that merges or routes between them."""
        names = [pole.name for pole in poles]
        adapters = self._pack.spec.experts.adapters
        folders = [self._pack.path(adapters[name].folder) for name in names]
        with torch.random.fork_rng(devices=[]):  # PEFT draws numbers and puts the file's over them
            torch.manual_seed(SEED)
            model = PeftModel.from_pretrained(self._base, folders[0], adapter_name=names[0])
            for name, folder in zip(names[1:], folders[1:], strict=True):
                model.load_adapter(folder, adapter_name=name)
        try:
            try:
                _join(model, method, names)
            except (ValueError, TypeError, KeyError) as error:
                raise RequestError(
                    f"Method '{method}': PEFT cannot join the experts {', '.join(names)} "
                    f"({one_line(error)}): give them equal rank and targets, or leave it out."
                ) from error
            yield model.eval()
        finally:
            model.unload()

    def _replies(self, model: Any, jobs: Sequence[Job]) -> Outcomes:
        fitting = []
        for job in jobs:
            instructions = [pole.instruction for pole in self._pack.space.parse(job.code).poles]
            ids = self._prompts.render(job.request.messages, instructions)
            asked, most = job.request.sampling.max_new_tokens, self._pack.spec.decode.context
            if len(ids) + asked <= most:
                fitting.append((job, ids))
                continue
            said = f"The prompt has {len(ids)} tokens and the reply may have {asked}, but together "
            yield job, RequestError(f"{said}at most {most} fit.")
        for batch in _batches(fitting):
            for (job, _), tokens in zip(batch, self._decode(model, batch), strict=True):
                decoder, last = (
                    StreamDecoder(self._tokenizer, self._prompts.end_of_turn),
                    len(tokens),
                )
                text = "".join(decoder.push(t, last=k == last) for k, t in enumerate(tokens, 1))
                finished = tokens[-1] in self._prompts.end_of_turn
                where = (self._format.device, f"{self._format}, by transformers")
                yield job, row_of(job, text, finished, last, where)

    def _decode(self, model: Any, batch: Sequence[Prompted]) -> list[list[int]]:
        """Token ids of a batch's replies, left-padded in one cache, each up to its own end."""
        samplings = [job.request.sampling for job, _ in batch]
        prompts = [ids for _, ids in batch]
        generators = [torch.Generator().manual_seed(s.seed) for s in samplings]
        width, device = max(map(len, prompts)), model.device
        ids = torch.tensor([[p[0]] * (width - len(p)) + p for p in prompts], device=device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
        replies: list[list[int]] = [[] for _ in batch]
        cache, running = DynamicCache(), list(range(len(batch)))
        while running:
            said = model(
                input_ids=ids,
                attention_mask=mask,  # whose places are counted without what pads them
                position_ids=(mask.cumsum(-1) - 1).clamp_min(0)[:, -ids.shape[1] :],
                logits_to_keep=1,
                **cache_arguments(self._base, cache),
            )
            chosen = choose(
                torch.log_softmax(said.logits[:, -1].float(), dim=-1),
                [samplings[row] for row in running],
                [replies[row] for row in running],
                [draw(generators[row]) for row in running],
            )
            for row, token in zip(running, chosen.tolist(), strict=True):
                replies[row].append(token)
            ends = self._prompts.end_of_turn
            over = [finish_reason(replies[row], samplings[row], ends) for row in running]
            kept = [k for k, reason in enumerate(over) if reason is None]
            ids, mask = chosen[:, None], torch.cat([mask, mask.new_ones(len(running), 1)], dim=1)
            if len(kept) < len(running):  # replies that have ended cost nothing more
                running = [running[k] for k in kept]
                places = torch.tensor(kept, dtype=torch.long, device=device)
                ids, mask = ids[places], mask[places]
                cache.batch_select_indices(places)
        return replies


def _batches(prompted: Sequence[Prompted]) -> Iterator[list[Prompted]]:
    """Of prompts about as long as each other, since all are padded to the longest."""
    batch: list[Prompted] = []
    for one in sorted(prompted, key=lambda pair: len(pair[1])):
        longest = len(one[1]) + one[0].request.sampling.max_new_tokens
        if batch and (len(batch) == TOGETHER or (len(batch) + 1) * longest > MOST_TOKENS):
            yield batch
            batch = []
        batch.append(one)
    if batch:
        yield batch


def _join(model: Any, method: str, names: Sequence[str]) -> None:
    """Activate one adapter that merges or routes between the given ones; errors are PEFT's own."""
    if method in (TIES, DARE):
        kind, weight = ("ties", 1.0) if method == TIES else ("dare_linear", 1.0 / len(names))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            weights = [weight] * len(names)
            model.add_weighted_adapter(names, weights, MERGED, kind, density=DENSITY)
        model.set_adapter(MERGED)
        return
    config = ArrowConfig(
        top_k=min(ROUTED, len(names)), router_temperature=TEMPERATURE, rng_seed=SEED
    )
    config.task_adapter_names, config.gks_adapter_names = list(names), []
    # By full names, unlike PEFT's create_arrow_model: experts may leave lower layers alone.
    shapes: list[dict[str, tuple[int, ...]]] = [{} for _ in names]
    for full, module in model.base_model.model.named_modules():
        for found, name in zip(shapes, names, strict=True):
            if name in getattr(module, "lora_A", {}):
                found[full] = tuple(module.lora_A[name].weight.shape)
    if any(found != shapes[0] for found in shapes):
        raise ValueError("their ranks or targets differ")
    rank, targets = model.peft_config[names[0]].r, sorted(shapes[0])
    model.add_adapter(ROUTER, LoraConfig(arrow_config=config, target_modules=targets, r=rank))
    model.set_adapter(ROUTER)
