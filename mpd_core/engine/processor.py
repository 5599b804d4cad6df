"""From requests to sequences, and from sequences to traces."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict

import torch

from mpd_core.engine.build import Parts
from mpd_core.engine.plan import BASE, PCM, TRUNK, ExpertCall, ExpertPlan, plan_request
from mpd_core.engine.records import finish_reason
from mpd_core.engine.runner import Runner
from mpd_core.engine.scheduler import Scheduler, fits
from mpd_core.engine.sequence import CacheRow, Sequence, grow_trunk, share_prefixes
from mpd_core.errors import EngineError, RequestError
from mpd_core.method.preferences import Preference
from mpd_core.method.static import is_simplex
from mpd_core.models.vocabulary import check_embedded
from mpd_core.packs import Pack
from mpd_core.prompts import PromptRenderer, name_tokens
from mpd_core.request import SHIFTING, Branch, GenerationRequest, Message, Sampling
from mpd_core.trace import FinishReason, StepRecord, Timing, Trace


class RequestProcessor:
    """Checks requests against a pack and the room that its models have."""

    def __init__(self, pack: Pack, parts: Parts) -> None:
        """Check the pack's template, and that its models embed the tokens of its tokenizer.

        Raises:
            PackError: as ``PromptRenderer``, or a token that has no embedding.
        """
        self._pack = pack
        self._info = parts.info
        self._prompts = PromptRenderer(parts.tokenizer, pack.spec.template)
        self._context = min(lane.cache.length for lane in parts.runner.lanes.values())
        self._tables = parts.runner.tables()
        self._has_trunk = TRUNK in parts.runner.lanes
        self.end_of_turn = self._prompts.end_of_turn
        self.tokenizer = parts.tokenizer
        self.name = name_tokens(parts.tokenizer)
        """The text of a token by itself."""
        self._sizes = {name: lane.vocab_size for name, lane in parts.runner.lanes.items()}
        used = self._prompts.written
        unused = self._prompts.control_ids - used - self.end_of_turn
        check_embedded(self.tokenizer, self._sizes[BASE], unused=unused, model="base")
        if PCM in self._sizes:  # a backbone of its own need not know what few people write
            unused = frozenset(self.tokenizer.get_vocab().values()) - used
            check_embedded(self.tokenizer, self._sizes[PCM], unused=unused, model="pcm.backbone")

    def sequence(self, request: GenerationRequest) -> Sequence:
        """A request's rows with their prompts.

        Raises:
            RequestError: unknown pole or method, too long a prompt, too many experts.
        """
        preference = self._pack.space.parse(request.preference)
        plan = plan_request(self._pack, preference, request.method, request.space)
        self._check_branch(plan, request.branch)
        experts = tuple(self._row(call, request) for call in plan.experts)
        pcm = self._row(plan.pcm, request) if plan.pcm else None
        anchors = tuple(self._row(call, request) for call in plan.anchors)
        sequence = Sequence(request, plan, experts, pcm, anchors)
        if self._has_trunk:
            sequence.trunk = grow_trunk(sequence.on(BASE))
        share_prefixes(sequence.rows)
        longest, asked = _longest_prompt(sequence), request.sampling.max_new_tokens
        if longest + asked > self._context:
            raise RequestError(
                f"The conversation has {longest} tokens and the reply may have {asked}, but "
                f"together at most {self._context} fit: shorten the prompt or start a new "
                "conversation."
            )
        if not fits(sequence, self._tables):
            raise RequestError(
                "The request needs more memory than the engine has for all: shorten the prompt "
                "or the reply, or leave dimensions out."
            )
        return sequence

    def finish(self, sequence: Sequence) -> FinishReason | None:
        """Why a reply is over with its last token, or None while it is not.

        Raises:
            EngineError: it goes on, and the PCM's own backbone has no embedding for the token.
        """
        sampling, token_id = sequence.request.sampling, sequence.tokens[-1]
        reason = finish_reason(sequence.reply, sampling, self.end_of_turn)
        if reason is None and sequence.pcm and token_id >= self._sizes.get(PCM, token_id + 1):
            raise EngineError(
                f"The reply came to {self._quoted(token_id)}, a token that the PCM's backbone has "
                "no embedding for: ask in another way, or choose another method."
            )
        return reason

    def trace(
        self,
        sequence: Sequence,
        steps: tuple[StepRecord, ...],
        finish: FinishReason,
        timing: Timing,
    ) -> Trace:
        """What came of a sequence, with everything needed to repeat it."""
        request = sequence.request
        settings = asdict(request.sampling)
        seed = settings.pop("seed")
        if request.space == "strength":
            settings |= {name: getattr(request, name) for name in SHIFTING}
        preference = self._pack.space.parse(request.preference)
        return Trace(
            pack=self._pack.spec.name,
            hashes=self._pack.hashes,
            trained=self._pack.trained,
            prompt=request.messages[-1].content,
            messages=tuple(asdict(message) for message in request.messages),
            preference=preference.code,
            poles=tuple(pole.name for pole in preference.poles),
            method=request.method,
            space=request.space,
            settings=settings,
            seed=seed,
            device=self._info.device,
            precision=self._info.precision,
            text="".join(step.text for step in steps),
            finish_reason=finish,
            prompt_tokens=_longest_prompt(sequence),
            timing=timing,
            steps=steps,
            branch=asdict(request.branch) if request.branch else None,
        )

    def _row(self, call: ExpertCall, request: GenerationRequest) -> CacheRow:
        prompt = tuple(self._prompts.render(request.messages, call.instructions))
        if not prompt:
            raise RequestError("To this model the prompt is empty: type something else.")
        if max(prompt) >= self._sizes.get(call.model, self._sizes[BASE]):
            raise RequestError(
                f"The text holds {self._quoted(max(prompt))}, a token that '{call.name}' has no "
                "embedding for: leave it out."
            )
        prefix = request.branch.prefix if request.branch else ()
        return CacheRow(call, (*prompt, *prefix), len(prompt) + request.sampling.max_new_tokens)

    def _check_branch(self, plan: ExpertPlan, branch: Branch | None) -> None:
        """Raises RequestError: tokens or weights that a reply by this method cannot have."""
        if branch is None:
            return
        known = self.tokenizer.convert_ids_to_tokens
        forced = (*branch.prefix, *(() if branch.token is None else (branch.token,)))
        for token in forced:
            if token >= self._sizes[BASE] or known(token) is None:
                raise RequestError(f"branch: {token} is no token of this pack's vocabulary.")
        if self.end_of_turn.intersection(branch.prefix):
            raise RequestError("branch.prefix holds the end of a reply: branch before it.")
        count = len(plan.experts)
        if branch.weights is not None and count == 1:
            raise RequestError("branch.weights: this method has one expert, nothing to weigh.")
        if branch.weights is not None and not is_simplex(branch.weights, count):
            raise RequestError(
                f"branch.weights: give {count} weights from 0 to 1, one for each expert of the "
                "method, that add up to 1."
            )

    def _quoted(self, token_id: int) -> str:
        return ascii(self.tokenizer.convert_ids_to_tokens(token_id))


def _longest_prompt(sequence: Sequence) -> int:
    rows = (*sequence.rows, *sequence.remote)
    return max(len(row.prompt) for row in rows) - len(sequence.prefix)


def read_beginnings(
    pack: Pack, processor: RequestProcessor, runner: Runner, scheduler: Scheduler
) -> None:
    """Leave rows in the prefix caches that hold what a template writes before a user's words.

    One for every adapter: each pole's, the anchor's, the PCM's, and the bare base. What a prompt
    has in common with them is copied, as from requests that have ended. Remote experts are not
    asked. To be called on the thread that computes, before any request.
    """
    with torch.inference_mode():
        for request in _requests(pack):
            with contextlib.suppress(RequestError):  # where the template alone is too long
                scheduler.add(sequence := processor.sequence(request))
                scheduler.schedule()
                while not sequence.prefilled:
                    runner.prefill(scheduler.tables)
                scheduler.finish_prefill()
                runner.compact(scheduler.remove(sequence, keep=True), scheduler.tables)
        runner.rest(scheduler.tables)


def _requests(pack: Pack) -> Iterator[GenerationRequest]:
    """So few that every pole is in one of them."""
    dimensions, one = pack.space.dimensions, Sampling(max_new_tokens=1)
    word = (Message("user", "?"),)
    for k in range(max(len(dimension.poles) for dimension in dimensions)):
        poles = tuple(d.poles[min(k, len(d.poles) - 1)] for d in dimensions)
        code = Preference(dimensions, poles).code
        yield GenerationRequest(word, code, space=pack.spec.decode.space, sampling=one)
    yield GenerationRequest(word, code, method="vanilla", sampling=one)
