"""A causal language model whose batch rows are independent sequences with their own adapters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mpd_core.models import probe
from mpd_core.models.adapters import LoraAdapter
from mpd_core.models.architecture import WINDOW_STEP, finish, row_length, text_config, window_of
from mpd_core.models.cache import RowCache, Window
from mpd_core.models.graphs import StepGraphs
from mpd_core.models.layouts import StackedLora
from mpd_core.models.linear import round_to, type_of_adapters
from mpd_core.models.llama import LlamaBody, is_llama
from mpd_core.models.lora import LoraStack, Mix

if TYPE_CHECKING:
    from mpd_core.models.general import GeneralBody


class RowModel:
    """One batched forward pass over rows that differ in text, length, position and adapter.

    Rows are dense: a pass covers ``rows`` of the cache, a slice. Whatever the model's linears are
    (fp32, bf16, NF4), they are called once a pass for all rows.
    """

    exact: bool
    """Whether tokens read together and one by one leave the same bits in the cache."""
    alike = False
    """Whether a row was seen to be, to the bit, what it is alone."""
    ragged: bool
    """Whether tokens of any rows can be read side by side, see ``forward``."""
    _graphs: StepGraphs | None = None

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
            packed: hold the linears packed to fp16, bf16 or blocks of 8 bits (CPU only).
            lean: use the written-out decoder for architectures that have one.
            layers: run only these; below the first lies another row model, the trunk.
            graphs: run decode steps at fixed shapes, in the operators of a GPU, as CUDA graphs
                where there is CUDA; default: on a GPU, with the written-out decoder.

        Raises:
            PackError: an adapter that does not fit, or a model whose rows come out otherwise.
        """
        probe.check_output_layer(model)
        config, lean = text_config(model), lean and is_llama(model)
        self.device: torch.device = probe.like_states(model).device
        self.vocab_size = config.vocab_size
        self.hidden_size = model.get_output_embeddings().in_features
        self._finish = finish(config)
        self._lean, length = lean, row_length(config, length)
        graphs = self.device.type == "cuda" and lean if graphs is None else graphs
        loops = self.device.type == "cpu" and not graphs
        self.ragged = loops and lean  # loops end where a row does
        self.exact = self.ragged and packed is not None
        count = len(layers) if layers else config.num_hidden_layers
        self._take_over(model, adapters, length, count, packed=packed, loops=loops, layers=layers)
        spare = -length % WINDOW_STEP or int(graphs)  # no window is cut short at the cache's end
        self.cache = RowCache(count, capacity, length, budget or capacity * length, spare=spare)
        if graphs:
            self._graphs = StepGraphs(self._step, capacity=capacity, length=length, idle=length)

    def _take_over(
        self,
        model: Any,
        adapters: Sequence[LoraAdapter],
        length: int,
        count: int,
        *,
        packed: torch.dtype | None,
        loops: bool,
        layers: range | None,
    ) -> None:
        """Make the body and its adapters; what is not written out is held against the model."""
        if packed and not self._lean:
            round_to(model, packed)  # embeddings too: the same weights whatever the body
        like = probe.like_states(model)
        sample = None if self._lean else probe.take_sample(model, length)
        held = type_of_adapters(packed)
        self._stack = LoraStack(adapters, model, like=like, packed=held, loops=loops)
        self._body: LlamaBody | GeneralBody
        if self._lean:
            self._body = LlamaBody(model, self._stack, packed=packed, layers=layers)
        else:
            from mpd_core.models.general import GeneralBody  # brings transformers' model code along

            assert layers is None, "only a written-out decoder runs in parts"
            self._body = GeneralBody(model, self._stack, packed=packed)
        self._stack.check_wrapped()
        if sample:
            tolerance = probe.tolerance_of(self.products(), packed, like)
            self.cache = RowCache(count, 2, sample.length, 1, spare=WINDOW_STEP)
            read = partial(self.forward, first=0, adapters=[(), ()])
            probe.check_rows(read, sample, model, tolerance=tolerance)
            names = [adapter.name for adapter in adapters]
            probe.check_adapters(self.forward, sample, model, names)

    @torch.inference_mode()
    def forward(
        self,
        inputs: Tensor,
        positions: Tensor,
        first: int | Tensor,
        adapters: Sequence[Mix],
        states: bool = True,
    ) -> Tensor:
        """Write new tokens into the cache and return their last hidden states.

        Args:
            inputs: ids, [rows, T], or states from the trunk below, [rows, T, D].
            positions: of each token in its own sequence, [rows, T].
            first: the first row of the cache that takes part; the rows follow it densely. Or, where
                ``ragged`` says so, of N loose tokens [1, N] the row of each, [N]: nothing is
                padded. All that a row lacks before any of these has to be among them.
            adapters: each row's, or loose token's, with their weights, () for the bare base.
            states: of loose tokens, whether they are asked for: without, the last layer ends with
                its cache.

        Returns:
            Hidden states, [rows, T, D]; after the final norm unless it is a trunk.
        """
        # A PCM's own backbone may lack tokens that were added to the base's vocabulary.
        if not inputs.is_floating_point():
            inputs = inputs.clamp_max(self.vocab_size - 1)
        gates = self._stack.adapter_weights(adapters)
        if isinstance(first, Tensor):
            return self._loose(inputs, positions, first, gates, states=states)
        if not self.ragged:
            self.cache.note(first, len(positions), int(positions.max()) + 1)
        if self._graphs is None or first or positions.shape[1] > 1:
            window = window_of(positions)  # before they are on the device: a wait less there
            inputs, positions = inputs.to(self.device), positions.to(self.device)
            rows = slice(first, first + len(inputs))
            return self._body(*self._begin(inputs, positions, gates, window, rows))
        return self._graphs.run(inputs, positions, gates, self._stack.routing.in_use)

    def _loose(
        self, inputs: Tensor, positions: Tensor, places: Tensor, gates: Tensor, *, states: bool
    ) -> Tensor:
        """A pass over tokens that each have a row of their own, [1, N]: in loops all rows are."""
        tokens, each = inputs.transpose(0, 1), positions.view(-1, 1)
        begun = self._begin(tokens, each, gates, window_of(positions), places)
        assert isinstance(self._body, LlamaBody)
        if states:
            return self._body(*begun).transpose(0, 1)
        self._body.fill(*begun)
        return torch.empty(1, 0, self.hidden_size)

    def _begin(
        self, inputs: Tensor, positions: Tensor, gates: Tensor, window: int, rows: slice | Tensor
    ) -> tuple[Tensor, Tensor, Any, RowCache]:
        """Set up a pass; what a body takes. Loops need no mask: they end where a row does."""
        self.cache.window = Window(rows, positions, window)
        self._stack.routing.begin(gates, inputs.shape[1])
        if self.ragged:
            return inputs, positions, None, self.cache
        seen = torch.arange(window, device=self.device)
        return inputs, positions, seen <= positions[:, None, :, None], self.cache

    def _step(self, inputs: Tensor, positions: Tensor, gates: Tensor, window: int) -> Tensor:
        routing = self._stack.routing
        routing.active = bool(routing.in_use)  # rows that come later may have adapters
        return self._body(*self._begin(inputs, positions, gates, window, slice(0, len(inputs))))

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
    def log_probs(self, hidden: Tensor, adapters: Sequence[Mix]) -> Tensor:
        """Log-probabilities of the next token; arguments and shape as of ``logits``."""
        return torch.log_softmax(self.logits(hidden, adapters), dim=-1)

    @torch.inference_mode()
    def logits(self, hidden: Tensor, adapters: Sequence[Mix]) -> Tensor:
        """The same before they are normalised.

        Args:
            hidden: states after the final norm, [rows, ..., D].
            adapters: each row's, as in ``forward``; the output layer may have some, too.

        Returns:
            In fp32, [rows, ..., V].
        """
        lm_head = self._body.lm_head
        states = hidden.reshape(len(adapters), -1, hidden.shape[-1])
        if isinstance(lm_head, StackedLora):
            self._stack.routing.begin(self._stack.adapter_weights(adapters), states.shape[1])
        logits = lm_head(states).view(*hidden.shape[:-1], -1)[..., : self.vocab_size]
        return self._finish(logits).float()
