"""A causal language model whose batch rows are independent sequences with their own adapters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mpd_core.errors import PackError
from mpd_core.models.adapters import LoraAdapter
from mpd_core.models.cache import RowCache, Window
from mpd_core.models.general import GeneralBody
from mpd_core.models.graphs import StepGraphs
from mpd_core.models.llama import LlamaBody, is_llama
from mpd_core.models.lora import LoraStack, Mix

WINDOW_STEP = 64  # windows grow in steps, so that shapes repeat from token to token


class RowModel:
    """One batched forward pass over rows that differ in text, length, position and adapter.

    Rows are dense: a pass covers ``rows`` of the cache, a slice. Whatever the model's linears are
    (fp32, bf16, NF4), they are called once a pass for all rows.
    """

    def __init__(
        self,
        model: Any,
        adapters: Sequence[LoraAdapter],
        *,
        capacity: int,
        length: int,
        budget: int | None = None,
        packed: torch.dtype | None = None,
        lean: bool = True,
        layers: range | None = None,
        graphs: bool | None = None,
    ) -> None:
        """Take over a causal LM of transformers; it must not be used elsewhere afterwards.

        Args:
            model: in evaluation mode, on its device.
            adapters: stacked on the model's linears.
            capacity: rows that the cache can hold.
            length: tokens that a row can hold.
            budget: tokens that all rows together should hold; default: capacity x length.
            packed: hold the linears packed to fp16 or bf16 (CPU only).
            lean: use the written-out decoder for architectures that have one.
            layers: run only these; below the first lies another row model, the trunk.
            graphs: run decode steps at fixed shapes, in the operators of a GPU, as CUDA graphs
                where there is CUDA; default: on a GPU, with the written-out decoder.

        Raises:
            PackError: an adapter that does not fit, or logits that are changed after their layer.
        """
        embeddings: Tensor = model.get_input_embeddings().weight
        self.device = embeddings.device
        self.vocab_size = model.config.vocab_size
        self.hidden_size = model.config.hidden_size
        _check_output_layer(model)
        body = LlamaBody if lean and is_llama(model) else GeneralBody
        if graphs is None:
            graphs = self.device.type == "cuda" and body is LlamaBody
        loops = self.device.type == "cpu" and not graphs
        self.exact = loops and body is LlamaBody and packed is not None
        """Whether tokens read together and one by one leave the same bits in the cache."""
        self.alike = False
        """Whether a row was seen to be, to the bit, what it is alone."""
        self._reads_own = loops and body is LlamaBody  # loops end where a row does
        self._stack = LoraStack(adapters, model, like=embeddings, packed=packed, loops=loops)
        self._body = body(model, self._stack, packed=packed, layers=layers)
        count = len(layers) if layers else model.config.num_hidden_layers
        length = min(length, model.config.max_position_embeddings)
        spare = -length % WINDOW_STEP or int(graphs)  # no window is cut short at the cache's end
        self.cache = RowCache(count, capacity, length, budget or capacity * length, spare=spare)
        self._graphs: StepGraphs | None = None
        if graphs:
            self._graphs = StepGraphs(self._step, capacity=capacity, length=length, idle=length)

    @torch.inference_mode()
    def forward(
        self, inputs: Tensor, positions: Tensor, first: int, adapters: Sequence[Mix]
    ) -> Tensor:
        """Write new tokens into the cache and return their last hidden states.

        Args:
            inputs: ids, [rows, T], or states from the trunk below, [rows, T, D].
            positions: of each token in its own sequence, [rows, T].
            first: the first row of the cache that takes part; the rows follow it densely.
            adapters: each row's adapters with their weights, () for the bare base.

        Returns:
            Hidden states, [rows, T, D]; after the final norm unless it is a trunk.
        """
        # A PCM's own backbone may lack tokens that were added to the base's vocabulary.
        if not inputs.is_floating_point():
            inputs = inputs.clamp_max(self.vocab_size - 1)
        gates = self._stack.gates(adapters)
        if not self._reads_own:
            self.cache.note(first, len(positions), int(positions.max()) + 1)
        if self._graphs is None or first or positions.shape[1] > 1:
            window = self._window(int(positions.max()))  # before the device: a wait less there
            inputs, positions = inputs.to(self.device), positions.to(self.device)
            return self._compute(inputs, positions, gates, window, first)
        return self._graphs.run(inputs, positions, gates, self._stack.in_use)

    def _compute(
        self, inputs: Tensor, positions: Tensor, gates: Tensor, window: int, first: int
    ) -> Tensor:
        self.cache.window = Window(slice(first, first + len(inputs)), positions, window)
        self._stack.route(gates)
        seen = torch.arange(window, device=self.device)
        return self._body(inputs, positions, seen <= positions[:, None, :, None], self.cache)

    def _step(self, inputs: Tensor, positions: Tensor, gates: Tensor, window: int) -> Tensor:
        self._stack.active = bool(self._stack.in_use)  # rows that come later may have adapters
        return self._compute(inputs, positions, gates, window, 0)

    @property
    def decoder(self) -> str:
        """Which code runs its layers."""
        return "written out" if isinstance(self._body, LlamaBody) else "transformers"

    @property
    def speaks(self) -> bool:
        """Whether it has the output layer: a trunk has none."""
        return hasattr(self._body, "lm_head")

    @property
    def graphs(self) -> int | None:
        """Decode steps laid out at fixed shapes so far; None where that is not done."""
        return None if self._graphs is None else len(self._graphs)

    @property
    def adapters_in_use(self) -> tuple[str, ...]:
        """Names of the adapters that are laid out."""
        return self._stack.names_in_use

    def products(self) -> Iterator[nn.Module]:
        """Every linear layer as it is computed, fused ones once."""
        return self._body.products()

    def keep_adapters(self, live: Sequence[Mix]) -> None:
        """Let go of adapters that no live row uses; they come back when a row needs them.

        Graphs would have to be captured again whenever that happens: with them, adapters stay.
        """
        if self._graphs is None:
            self._stack.keep(live)

    @torch.inference_mode()
    def log_probs(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., D] to log-probabilities of the next token in fp32, [..., V]."""
        logits = self._body.lm_head(hidden)[..., : self.vocab_size]
        return torch.log_softmax(logits.float(), dim=-1)

    def _window(self, last: int) -> int:
        return (last // WINDOW_STEP + 1) * WINDOW_STEP


@torch.inference_mode()
def _check_output_layer(model: Any) -> None:
    lm_head = model.get_output_embeddings()
    probe = torch.zeros(1, 1, dtype=torch.long, device=model.device)
    try:
        hidden = model.base_model(input_ids=probe).last_hidden_state
    except RuntimeError as error:  # shapes or kernels that this machine's 4-bit library lacks
        raise PackError(f"base: {type(model).__name__} fails on one token: {error}") from error
    if not torch.allclose(lm_head(hidden), model(input_ids=probe).logits, rtol=1e-3, atol=1e-3):
        raise PackError(
            f"base: {type(model).__name__} changes its logits after the output layer; "
            "use an architecture without soft-capping or logit scaling."
        )
