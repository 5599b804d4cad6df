"""A causal LM whose matrices stay in the blocks of the GGUF that its base was converted from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from mpd_core.errors import PackError
from mpd_core.models.blocks import BlockEmbedding, BlockLinear, Panels, unpack
from mpd_core.models.files import BLOCKS, LOCAL, weight_files
from mpd_core.models.light import LlamaForCausalLM, read_config
from mpd_core.models.llama import is_llama
from mpd_core.models.numbers import is_finite

WEIGHT, CODES = ".weight", ".codes"


def block_names(folder: Path) -> frozenset[str]:
    """Parameters of a converted base that are kept in blocks, too; none of other folders."""
    if not (folder / BLOCKS).is_file():
        return frozenset()
    with safe_open(folder / BLOCKS, "pt") as file:
        return frozenset(n.removesuffix(CODES) for n in file.keys() if n.endswith(CODES))  # noqa: SIM118


def load_in_blocks(folder: Path) -> Any | None:
    """The model of a base as ``convert_gguf`` writes it, on the CPU; what is not in blocks is fp32.

    Returns:
        None where there are no blocks, or no decoder is written out that they are for.

    Raises:
        PackError: numbers that are not finite, or files that do not belong together.
    """
    names = block_names(folder)
    if not names or not is_llama(model := _empty(folder)):
        return None
    dense = dict(_dense(folder, names))
    _place_blocks(folder, model, names, dense)
    model.load_state_dict(dense, strict=False, assign=True)
    if model.config.tie_word_embeddings and isinstance(model.lm_head, nn.Linear):
        model.lm_head.weight = model.get_input_embeddings().weight
    rotary = model.model.rotary_emb
    model.model.rotary_emb = type(rotary)(config=model.config)  # computed, never in a file
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_meta:
            raise PackError(
                f"base: {folder} lacks the tensor '{name}' of {type(model).__name__}: remove the "
                "folder, and it is converted anew."
            )
    return model


def _empty(folder: Path) -> Any:
    """The model that a configuration describes, of shapes alone."""
    config = read_config(folder)
    with torch.device("meta"):
        if config:
            return LlamaForCausalLM(config)
        from transformers import AutoConfig, AutoModelForCausalLM

        config = AutoConfig.from_pretrained(folder, **LOCAL)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def _place_blocks(
    folder: Path, model: Any, names: frozenset[str], dense: Mapping[str, Tensor]
) -> None:
    embeddings, tied = model.get_input_embeddings(), model.config.tie_word_embeddings
    with safe_open(folder / BLOCKS, "pt") as file:
        for name in sorted(names):
            path = name.removesuffix(WEIGHT)
            found, (parent, _, child) = model.get_submodule(path), path.rpartition(".")
            scales = file.get_tensor(f"{name}.scales")
            if not is_finite(scales):
                raise PackError(
                    f"base: '{name}' in {folder} holds numbers that are not finite: obtain it again"
                )
            codes = file.get_tensor(name + CODES)
            _check_same(folder, name, codes, scales)
            panels = Panels.of(codes, scales)
            if (held := (panels.outputs, panels.inputs)) != tuple(found.weight.shape):
                raise PackError(
                    f"base: '{name}' in {folder} has the shape {held}, but "
                    f"{tuple(found.weight.shape)} by its config.json; use the config.json that "
                    "belongs to the weights."
                )
            made: nn.Module = BlockEmbedding(panels)
            if found is not embeddings:
                made = BlockLinear(panels, None if found.bias is None else dense[f"{path}.bias"])
            elif tied:
                model.lm_head = BlockLinear(panels)
            setattr(model.get_submodule(parent), child, made)


def _check_same(folder: Path, name: str, codes: Tensor, scales: Tensor) -> None:
    """Weights may have been trained and saved where they lay: then blocks are what they were."""
    ends = (slice(0, 1), slice(-1, None))
    for weights in weight_files(folder):
        with safe_open(folder / weights, "pt") as file:
            if name in file.keys():  # noqa: SIM118
                held = file.get_slice(name)
                count = held.get_shape()[0]
                rows = [held[:1], held[count - 1 :]]
                found = [unpack(codes[end], scales[end]) for end in ends]
                if all(torch.equal(a, b.float()) for a, b in zip(found, rows, strict=True)):
                    return
    raise PackError(
        f"base: {BLOCKS} in {folder} is not of the weights beside it ('{name}'): remove {BLOCKS}."
    )


def _dense(folder: Path, names: frozenset[str]) -> Iterator[tuple[str, Tensor]]:
    """Tensors of a folder's own files but those whose blocks are kept."""
    for weights in weight_files(folder):
        with safe_open(folder / weights, "pt") as file:
            for name in set(file.keys()) - names:
                yield name, file.get_tensor(name).float().clone()
