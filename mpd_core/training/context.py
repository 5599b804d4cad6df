"""What all trainings of a pack share: its base, its tokenizer, its data and where results go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from mpd_core.errors import PackError
from mpd_core.models.adapters import WEIGHTS_FILE
from mpd_core.models.architecture import text_config
from mpd_core.models.base import check_keys
from mpd_core.models.files import LOCAL
from mpd_core.models.light import read_tokenizer
from mpd_core.models.targets import linear_shape
from mpd_core.packs import Pack, file_sha256
from mpd_core.packs.schema import AdapterSpec
from mpd_core.prompts import PromptRenderer
from mpd_core.request import Message
from mpd_core.saving import read_json, write_json
from mpd_core.sources.obtain import obtain
from mpd_core.training.data import Split, Styled, Styles, load_styles
from mpd_core.training.machine import trains_in_bf16
from mpd_core.training.pcm_recipe import LoraSpec
from mpd_core.training.recipe import FILE, Recipe, load_recipe
from mpd_core.training.results import ADAPTER
from mpd_core.training.trunk import Trunk, share_trunk

RUNS = Path("runs")
RECORD, MACHINE = "run.json", "machine.json"
WINDOWS = ("sliding_window", "attention_chunk_size", "window_size")
"""Config keys that limit how many tokens back a layer attends."""


@dataclass
class TrainingContext:
    """What training a pack shares: recipe, data, base and tokenizer; creates models on demand."""

    pack: Pack
    recipe: Recipe
    styles: Styles
    taught: Styles
    """What experts and the PCM's supervised start learn from: ``styles``, where the recipe names
    nothing else. Reward models learn from both."""
    out: Path
    base: Path
    tokenizer: Any
    renderer: PromptRenderer
    _trunks: dict[int, Trunk] = field(default_factory=dict)

    @classmethod
    def open(
        cls, pack: Pack, out: Path | None = None, progress: Callable[[str], None] = lambda _: None
    ) -> TrainingContext:
        """Read the recipe ``train.toml`` beside a pack, and its data, and obtain its base.

        Results go to ``out``, by default ``runs/NAME``; ``progress`` hears what is being done.

        Raises:
            PackError: a recipe or data that cannot be read.
            ModelSourceError: the base cannot be obtained.
        """
        recipe = load_recipe(pack)
        styles = load_styles(pack.path(recipe.data.file))
        own = recipe.data.experts
        taught = load_styles(pack.path(own)) if own else styles
        base = obtain(pack, pack.spec.base.source, progress=progress)
        tokenizer = read_tokenizer(base)
        renderer = PromptRenderer(tokenizer, pack.spec.template)
        _prepare(tokenizer, renderer)
        out = out or RUNS / pack.spec.name
        return cls(pack, recipe, styles, taught, out, base, tokenizer, renderer)

    def compared(self, split: Split) -> list[Styled]:
        """Rows whose answers the reward models are trained to compare.

        Replies speak as what experts learned from does. Reward models of the default pack that had
        seen only ``styles`` put its minimal pairs in the right order and still had *elementary*
        above *knowledgeable* for all but a few replies in plain words: the level of a score, which
        Eq. 2 asks for, has to be learned where replies are.
        """
        sources = [self.styles] if self.taught is self.styles else [self.styles, self.taught]
        return [row for source in sources for row in source.split(split)]

    def folder(self, stage: str, packed: AdapterSpec | None) -> Path:
        """A folder with an adapter: trained here by a stage, or the pack's."""
        here = self.out / stage / ADAPTER
        return self.pack.path(packed.folder) if packed and not here.is_dir() else here

    @property
    def end_of_turn(self) -> str:
        """The token that a reply ends with."""
        return str(self.tokenizer.eos_token)

    def prompt(self, instruction: str) -> str:
        """A prompt's text, up to where the reply begins."""
        return self.renderer.text(self.messages(instruction))

    def ids(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens added."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    @staticmethod
    def messages(instruction: str) -> tuple[Message, ...]:
        """A conversation of one turn."""
        return (Message("user", instruction),)

    @cached_property
    def mixed(self) -> bool:
        """Whether training uses bf16 matrix products, which it does where they are faster.

        Measured once for a folder of results: measured anew, beside other work, it may come out
        otherwise, and what goes on from a checkpoint would become other weights.
        """
        if not (file := self.out / MACHINE).is_file():
            write_json(file, {"bf16": trains_in_bf16()})
        return bool(read_json(file)["bf16"])

    def causal_lm(self, lora: LoraSpec, start: Path | None = None) -> Any:
        """The frozen base with an adapter to train: a fresh one, or a copy of a saved one."""
        adapted = _adapted(self.bare(lora), lora, start)
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()  # saved as fp16
            elif self.mixed and parameter.dim() == 2:
                parameter.data = parameter.data.bfloat16()  # once, instead of at every product
        return adapted

    def bare(self, lora: LoraSpec) -> Any:
        """The frozen base whose layers below the adapter are the shared trunk."""
        model = self._load(self.base)
        _check_lora(model, lora)
        known = self._trunks.get(lora.first_layer)
        trunk = share_trunk(model, lora.first_layer, self.tokenizer.pad_token_id, known)
        if trunk is not None:
            self._trunks[lora.first_layer] = trunk
        return model

    def pcm_body(self, lora: LoraSpec, adapter: Path | None = None) -> Any:
        """The PCM's frozen backbone, the base or a model of its own, with an adapter to train."""
        backbone = self.pack.spec.pcm.backbone
        if backbone == "base":
            model = self.bare(lora)
        else:
            model = self._load(obtain(self.pack, backbone))
            _check_lora(model, lora)
        return _adapted(model, lora, adapter)

    def record(self, folder: Path, kind: str, **facts: Any) -> None:
        """Write the provenance of a result: seed, recipe, and hashes of data, pack and adapter."""
        content = {
            "kind": kind,
            "seed": self.recipe.seed,
            "recipe": self.recipe.model_dump(mode="json"),
            "recipe_sha256": self.recipe.sha256,
            "data_sha256": self.styles.sha256,
            "pack_hashes": self.pack.hashes,
            "weights_sha256": file_sha256(folder / ADAPTER / WEIGHTS_FILE),
            **facts,
        }
        write_json(folder / RECORD, content)

    def _load(self, folder: Path) -> Any:
        transformers_logging.disable_progress_bar()
        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        model, info = AutoModelForCausalLM.from_pretrained(
            folder,
            use_safetensors=True,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # told in ``info``, and refused there
            **LOCAL,
        )
        check_keys(folder, info, type(model).__name__)
        self._check_attention(model)
        model.requires_grad_(False)
        model.config.use_cache = False
        return model.to(device)

    def _check_attention(self, model: Any) -> None:
        """Reject bases with windowed attention: packed answers use one mask for all layers."""
        context = self.pack.spec.decode.context
        config = text_config(model)
        everywhere = set(getattr(config, "layer_types", None) or ()) == {"full_attention"}
        sizes = (getattr(config, name, None) or context for name in WINDOWS)
        if narrow := [size for size in sizes if size < context and not everywhere]:
            raise PackError(
                f"base: {type(model).__name__} attends to {min(narrow)} tokens in some layers, and "
                f"training reads up to decode.context = {context} with full attention: lower it to "
                f"{min(narrow)}, or train another base."
            )


def _adapted(model: Any, lora: LoraSpec, saved: Path | None) -> Any:
    if saved:
        return PeftModel.from_pretrained(model, saved, is_trainable=True)
    upper = range(lora.first_layer, model.config.num_hidden_layers) if lora.first_layer else ()
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets),
        layers_to_transform=list(upper) or None,
    )
    return get_peft_model(model, config)


def _check_lora(model: Any, lora: LoraSpec) -> None:
    """Reject LoRA targets that PEFT would silently skip, or that the engine could not run."""
    layers = model.config.num_hidden_layers
    if lora.first_layer >= layers:
        raise PackError(f"{FILE}: lora.first_layer: the base has {layers} layers.")
    for target in lora.targets:
        found = [m for name, m in model.named_modules() if f".{name}".endswith(f".{target}")]
        if not found or not all(linear_shape(module) for module in found):
            raise PackError(f"{FILE}: lora.targets: the base has no linears named '{target}'.")


def _prepare(tokenizer: Any, renderer: PromptRenderer) -> None:
    """Make the tokenizer agree with the engine: no tokens but the template's; padding unlearned."""
    ends = sorted(renderer.end_of_turn)
    if tokenizer.eos_token_id not in ends:
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(ends[0])
    # Padding must not be the end of a turn, which is learned.
    others = (
        token
        for token in (tokenizer.unk_token, "<|endoftext|>", "<pad>")
        if token in tokenizer.get_vocab() and token != tokenizer.eos_token
    )
    tokenizer.pad_token = next(others, tokenizer.eos_token)
    tokenizer.padding_side = "right"
    if hasattr(tokenizer, "add_bos_token"):
        tokenizer.add_bos_token = False
    probe = (Message("user", "Why?"),)
    if list(tokenizer(renderer.text(probe))["input_ids"]) != renderer.render(probe):
        raise PackError("base: its tokenizer adds tokens of its own to the template's.")
