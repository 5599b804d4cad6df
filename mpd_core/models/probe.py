"""Held against transformers' own forward pass when a base is loaded.

An architecture may do what no configuration tells: look back less far, keep a state of its own,
count positions by itself, change its logits at the end. None of this raises an error; it is the
text that would be another one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mpd_core.errors import PackError, others_as
from mpd_core.models.architecture import body_of, finish, local_sizes, text_config
from mpd_core.models.files import QUANTISED
from mpd_core.models.layouts import base_of
from mpd_core.models.light import LlamaForCausalLM
from mpd_core.models.lora import Mix

SMALL = 300_000_000
"""Parameters up to which a long text is read; beyond, as few tokens as can tell anything."""
FEW, LONG, LONGEST = 12, 72, 1024
STEPS = 2
"""Tokens at the end that are read one by one."""
EXACT, ROUNDED = 1e-3, 0.1
"""Largest differences of states, relative: in fp32, and where products round what they get."""

Read = Callable[[Tensor, Tensor], Tensor]
"""Tokens and positions [rows, T] to last hidden states [rows, T, D], with what was read before."""


@dataclass(frozen=True)
class Sample:
    """Two texts of different lengths, and what transformers makes of each."""

    texts: list[Tensor]
    states: list[Tensor]

    @property
    def length(self) -> int:
        """Of the longer text."""
        return max(map(len, self.texts))


def take_sample(model: Any, length: int) -> Sample:
    """Read two texts by a causal LM's own forward pass, before anything in it is replaced.

    They are no longer than the tokens that a row will be able to hold, ``length``.

    Raises:
        PackError: the model fails.
    """
    config = text_config(model)
    small = sum(p.numel() for p in model.parameters()) <= SMALL
    sizes = [size + STEPS + 1 for size in local_sizes(config) if size < LONGEST]
    longest = min(max([LONG, *sizes]) if small else FEW, length)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, config.vocab_size, (longest,), generator=generator)
    texts = [ids, ids.flip(0)[: max(STEPS, longest // 2)]]
    with _as_pack_errors(model), torch.inference_mode():
        read = (body_of(model)(input_ids=t[None].to(model.device), use_cache=False) for t in texts)
        states = [output.last_hidden_state[0] for output in read]
    return Sample(texts, states)


def cached_bytes(model: Any) -> int:
    """Bytes that a model caches of one token in all layers: measured, for no two kinds of
    configuration say alike how many heads there are, how wide, and in which layers.

    Raises:
        PackError: the model fails, or keeps no keys and values.
    """
    if isinstance(model, LlamaForCausalLM):
        return model.cached_bytes
    token = torch.ones(1, 1, dtype=torch.long, device=model.device)
    with _as_pack_errors(model), torch.inference_mode():
        output = body_of(model)(input_ids=token, use_cache=True)
    name = "cache" if hasattr(output, "cache") else "past_key_values"  # as versions call it
    cache: Any = getattr(output, name, ())
    layers = getattr(getattr(cache, "self_attention_cache", cache), "layers", ())
    kept = (getattr(layer, side, None) for layer in layers for side in ("keys", "values"))
    size = sum(int(tensor.nbytes) for tensor in kept if tensor is not None)
    if not size:
        raise PackError(
            f"base: {type(model).__name__} keeps no keys and values of what it has read; "
            "use a base of another architecture."
        )
    return size


def check_output_layer(model: Any) -> None:
    """Refuse a model whose logits are not its output layer's, finished as ``finish`` does.

    Raises:
        PackError: no output layer, states that are not finite, logits that are changed otherwise,
            or the model fails.
    """
    if isinstance(model, LlamaForCausalLM):
        return  # nothing but weights: there is no code of another's to be held against
    lm_head = model.get_output_embeddings()
    if lm_head is None:
        raise PackError(f"base: {type(model).__name__} has no output layer; use a causal LM.")
    seen: list[Tensor] = []

    def ramp(_: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        # Far beyond usual logits, so that no cap on them is missed.
        size = output.shape[-1]
        made = torch.linspace(-200, 200, size, device=output.device, dtype=output.dtype)
        seen.extend((inputs[0], made))
        return made.expand_as(output)

    probe = torch.ones(1, 1, dtype=torch.long, device=model.device)
    hook = lm_head.register_forward_hook(ramp)
    try:
        with _as_pack_errors(model), torch.inference_mode():
            logits = model(input_ids=probe).logits
            hidden = body_of(model)(input_ids=probe).last_hidden_state
    finally:
        hook.remove()
    if not hidden.isfinite().all():
        raise PackError(
            f"base: with the settings in its config.json, {type(model).__name__} computes numbers "
            "that are not finite; use the config.json that belongs to the weights, or fp32."
        )
    if seen[0].shape != hidden.shape or not torch.allclose(seen[0], hidden, rtol=1e-2, atol=1e-2):
        raise PackError(
            f"base: {type(model).__name__} changes its states before the output layer; "
            "use another architecture."
        )
    expected = finish(text_config(model))(seen[1]).to(logits.dtype)
    if not torch.allclose(logits[0, -1], expected, rtol=1e-2 if expected.itemsize < 4 else 1e-5):
        raise PackError(
            f"base: {type(model).__name__} changes its logits after the output layer in a way of "
            "its own; use a base of another architecture."
        )


def check_rows(read: Read, sample: Sample, model: Any, *, tolerance: float) -> None:
    """Read a sample as two rows of an empty cache, the ends one by one, and compare.

    ``tolerance``: largest difference of two states, relative to the longer of the two.

    Raises:
        PackError: the states differ, or the rows cannot be computed.
    """
    with _as_pack_errors(model):
        differences = _differences(read, sample)
    # Where products round, a mixture's router may choose other experts for some tokens.
    worst = differences.max() if tolerance < 0.01 else differences.quantile(0.75)
    if not worst <= tolerance:
        raise PackError(
            f"base: {type(model).__name__} gives other states in rows of different texts than by "
            f"itself (by {float(worst):.1e}); use a base of another architecture."
        )


def check_adapters(
    read: Callable[[Tensor, Tensor, int, list[Mix]], Tensor],
    sample: Sample,
    model: Any,
    names: Sequence[str],
) -> None:
    """Read with all adapters in one of two rows: whatever fails, fails when the base is loaded.

    ``read`` is ``RowModel.forward`` with a cache for two rows, ``names`` are the adapters'.

    Raises:
        PackError: a linear is called in a way that adapters cannot follow, or the pass fails.
    """
    tokens = torch.nn.utils.rnn.pad_sequence(sample.texts, batch_first=True)
    places = torch.arange(tokens.shape[1]).expand_as(tokens)
    if names:
        with _as_pack_errors(model):
            read(tokens, places, 0, [tuple((name, 1.0) for name in names), ()])


def _differences(read: Read, sample: Sample) -> Tensor:
    ends = [len(text) - STEPS for text in sample.texts]
    tokens = torch.nn.utils.rnn.pad_sequence(
        [text[:end] for text, end in zip(sample.texts, ends, strict=True)], batch_first=True
    )
    found: list[list[Tensor]] = [[] for _ in ends]
    if max(ends):
        hidden = read(tokens, torch.arange(tokens.shape[1]).expand_as(tokens))
        found = [[*row[:end]] for row, end in zip(hidden, ends, strict=True)]
    for step in range(STEPS):
        places = torch.tensor([[end + step] for end in ends])
        last = torch.stack([text[p] for text, p in zip(sample.texts, places, strict=True)])
        for row, state in zip(found, read(last, places)[:, 0], strict=True):
            row.append(state)
    got = torch.stack([state for row in found for state in row]).float()
    wanted = torch.cat(sample.states).float()
    difference: Tensor = (got - wanted).norm(dim=-1) / wanted.norm(dim=-1).clamp_min(1e-6)
    return difference


def _as_pack_errors(model: Any) -> AbstractContextManager[None]:
    """A model's own exceptions, of whatever kind, as one line."""
    quantised = getattr(model.config, QUANTISED, None) is not None
    instead = "unquantised weights of this one" if quantised else "another precision"
    return others_as(
        PackError,
        lambda why: (
            f"base: {type(model).__name__} cannot be run here ({why}); use a base of "
            f"another architecture, or {instead}."
        ),
    )


def tolerance_of(products: Iterable[nn.Module], packed: torch.dtype | None, like: Tensor) -> float:
    """``EXACT`` or ``ROUNDED``, by the products of a model whose states are ``like`` this."""
    # Of 4-bit kernels some multiply in bf16, and which one runs depends on the number of rows.
    weights = (getattr(base_of(product), "weight", like) for product in products)
    dense = all(weight.is_floating_point() for weight in weights)
    exact = dense and like.dtype is torch.float32 and packed is not torch.bfloat16
    return EXACT if exact else ROUNDED


def like_states(model: Any) -> Tensor:
    """A tensor of the type and on the device of a model's states: where there is one, its
    embeddings, which blocks are not."""
    embeddings = model.get_input_embeddings()
    found: Tensor | None = getattr(embeddings, "weight", None)
    parameters: Iterator[Tensor] = model.parameters()
    return next(parameters) if found is None else found
