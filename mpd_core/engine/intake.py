"""What surrounds a sequence: requests become sequences, and what came of them becomes traces."""

from __future__ import annotations

from dataclasses import asdict

from mpd_core.engine.build import Parts
from mpd_core.engine.sequence import Sequence, Track, grow_trunk, share_prefixes
from mpd_core.errors import RequestError
from mpd_core.experts import BASE, TRUNK, Row, make_plan
from mpd_core.packs import Pack
from mpd_core.prompts import PromptRenderer
from mpd_core.request import GenerationRequest
from mpd_core.trace import FinishReason, StepRecord, Timing, Trace


class Intake:
    """Checks requests against a pack and the room that its models have."""

    def __init__(self, pack: Pack, parts: Parts) -> None:
        self._pack = pack
        self._info = parts.info
        self._prompts = PromptRenderer(parts.tokenizer, pack.spec.template)
        self._context = min(lane.cache.length for lane in parts.runner.lanes.values())
        self._tables = parts.runner.tables()
        self._has_trunk = TRUNK in parts.runner.lanes
        self.end_of_turn = self._prompts.end_of_turn

    def sequence(self, request: GenerationRequest) -> Sequence:
        """A request's rows with their prompts.

        Raises:
            RequestError: unknown pole or method, too long a prompt, too many experts.
        """
        preference = self._pack.space.parse(request.preference)
        plan = make_plan(self._pack, preference, request.method, request.space)
        experts = tuple(self._track(row, request) for row in plan.experts)
        pcm = self._track(plan.pcm, request) if plan.pcm else None
        anchors = tuple(self._track(row, request) for row in plan.anchors)
        tracks = (*experts, *anchors, *((pcm,) if pcm else ()))
        trunk = grow_trunk(t for t in tracks if t.lane == BASE) if self._has_trunk else ()
        sequence = Sequence(request, plan, experts, pcm, anchors, trunk)
        share_prefixes(sequence.tracks)
        longest, asked = _longest_prompt(sequence), request.sampling.max_new_tokens
        if longest + asked > self._context:
            raise RequestError(
                f"The conversation has {longest} tokens and the reply may have {asked}, but "
                f"together at most {self._context} fit: shorten the prompt or start a new "
                "conversation."
            )
        if not all(table.fits(sequence.on(lane)) for lane, table in self._tables.items()):
            raise RequestError(
                "The request needs more memory than the engine has for all: shorten the prompt "
                "or the reply, or leave dimensions out."
            )
        return sequence

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
            settings |= {"strength": request.strength, "plausibility": request.plausibility}
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
        )

    def _track(self, row: Row, request: GenerationRequest) -> Track:
        prompt = tuple(self._prompts.render(request.messages, row.instructions))
        return Track(row, prompt, len(prompt) + request.sampling.max_new_tokens)


def _longest_prompt(sequence: Sequence) -> int:
    return max(len(track.prompt) for track in (*sequence.tracks, *sequence.remote))
