"""The jobs of a run: methods x preferences x prompts, each keyed by a hash of its content."""

from __future__ import annotations

import itertools
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast, get_args

from mpd_core.engine.plan import TOP, has_soup, method_names, plan_request
from mpd_core.errors import MPDError, RequestError
from mpd_core.evaluation.prompts import Prompt
from mpd_core.evaluation.record import Row, RunRecord
from mpd_core.method.preferences import LEFT_OUT
from mpd_core.method.static import STATIC
from mpd_core.packs import Pack, Quantize
from mpd_core.request import GenerationRequest, Message, Sampling, Space
from mpd_core.saving import content_hash

WEIGHTS = "adapter_model.safetensors"
WEIGHED = ("mpd", TOP)
"""Methods that use the PCM's weights."""
AT = "@"
"""``uniform@logit`` is the method ``uniform`` merged in another space than the pack's own."""

TIES, DARE, ARROW = "ties", "dare", "arrow"
DENSITY = 0.5
"""Share of an adapter's numbers that TIES and DARE keep."""
ROUTED, TEMPERATURE = 3, 1.0
"""Arrow: most experts a token, and the temperature of their weights; PEFT's defaults."""
JOINED = (TIES, DARE)
"""Make one adapter of the experts, which the engine serves."""
WEIGHT_SPACE: Mapping[str, tuple[float | str, ...]] = {
    **dict.fromkeys(JOINED, (DENSITY, "by the engine")),
    ARROW: (ROUTED, TEMPERATURE),
}
"""Baselines that join weights, see ``weight_space``, with their settings."""


@dataclass(frozen=True)
class Job:
    """One reply to be generated."""

    key: str
    """Hash of all that the text depends on: pack, prompt, method and settings."""
    id: str
    code: str
    """Left out in every dimension where the method asks for no preference."""
    method: str
    request: GenerationRequest


Outcomes = Iterator[tuple[Job, Row | MPDError]]
"""The stored row of each job, or why there is none."""


def row_of(job: Job, text: str, finished: bool, tokens: int, where: tuple[str, str]) -> Row:
    """Fields that every stored reply has; ``where`` is device and precision."""
    asked = {"key": job.key, "id": job.id, "prompt": job.request.messages[-1].content}
    asked |= {"code": job.code, "method": job.method}
    said = {"text": text, "finished": finished, "tokens": tokens}
    return {**asked, **said, "device": where[0], "precision": where[1]}


def methods_of(pack: Pack, chosen: str | None = None) -> list[str]:
    """The methods to compare: those named, with commas, or all that the pack can run.

    Weight-space baselines are among them where all experts are adapters of one shape.

    Raises:
        RequestError: an unknown method or space.
    """
    if chosen:
        parts = re.split(r",(?!\s*[\d.])", chosen)  # static:0.5,0.3,0.2 has commas of its own
        names = [part.strip() for part in parts if part.strip()]
        for name in names:
            _split(pack, name)
        return list(dict.fromkeys(names))
    others = [space for space in get_args(Space) if space != pack.spec.decode.space]
    names = ["uniform", *(["mpd"] if pack.trained else [])]
    anew = [f"{name}{AT}{space}" for name in names for space in others]
    return [*method_names(pack), *anew, *(WEIGHT_SPACE if _alike(pack) else ())]


def jobs_of(
    pack: Pack,
    prompts: Sequence[Prompt],
    methods: Sequence[str],
    codes: Sequence[str],
    sampling: Sampling,
    quantize: Quantize | None = None,
) -> list[Job]:
    """Every method on every preference and prompt; a method without preferences once a prompt.

    Prompts are outermost: requests that share one come together and share what is computed of it.

    Raises:
        RequestError: a preference or a method that the pack does not have.
    """
    wanted = [(method, code) for method in methods for code in _codes(pack, method, codes)]
    named = {method: _split(pack, method) for method in methods}
    content = {method: content_of(pack, quantize, name) for method, (name, _) in named.items()}
    jobs = []
    for prompt, (method, code) in itertools.product(prompts, wanted):
        name, space = named[method]
        merging = pack.merging(pack.space.parse(code), space)
        message = Message("user", prompt.text)
        request = GenerationRequest((message,), code, name, sampling=sampling, **merging)
        jobs.append(Job(key_of(content[method], request), prompt.id, code, method, request))
    return jobs


def define(
    pack: Pack, prompts: str, codes: Sequence[str], jobs: Sequence[Job], quantize: Quantize | None
) -> RunRecord:
    """A run from its jobs; ``prompts`` is where its prompts came from."""
    return RunRecord(
        *(pack.spec.name, pack.hashes, prompts, len({job.id for job in jobs})),
        methods=tuple(dict.fromkeys(job.method for job in jobs)),
        codes=tuple(codes),
        sampling=asdict(jobs[0].request.sampling),
        keys=tuple(job.key for job in jobs),
        content=content_of(pack, quantize),
    )


def missing(rows: Container[str], jobs: Iterable[Job]) -> list[Job]:
    """Jobs without a row, each key once."""
    first: dict[str, Job] = {}
    for job in jobs:
        if job.key not in rows:
            first.setdefault(job.key, job)
    return list(first.values())


def content_of(pack: Pack, quantize: Quantize | None = None, method: str | None = None) -> str:
    """SHA-256 of all that a pack's replies depend on: titles and reward models are none of it.

    Of one method's replies alone, only those that a PCM weighs depend on it, and only ``static`` on
    the pack's constant weights: other methods' outlive a new PCM.
    """
    left_out = {"title", "description", "examples", "rewards", "name"}
    if method and method not in WEIGHED:
        left_out.add("pcm")
    if method and method != STATIC:
        left_out.add("static")
    hashes = {
        name: sha
        for name, sha in pack.hashes.items()
        if name != "pack.toml" and name.partition(".")[0] not in left_out
    }
    spec = pack.spec.model_dump(mode="json", exclude=left_out)
    return content_hash({"spec": spec, "hashes": hashes, "quantize": quantize})


def key_of(content: str, request: GenerationRequest) -> str:
    """Cache key of a reply: a hash of the pack's content and the request."""
    found: dict[str, Any] = {"pack": content, "request": asdict(request)}
    if request.method in WEIGHT_SPACE:
        found["settings"] = WEIGHT_SPACE[request.method]
    return content_hash(found)[:32]


def _split(pack: Pack, method: str) -> tuple[str, Space]:
    name, at, space = method.partition(AT)
    own = pack.spec.decode.space
    if name in WEIGHT_SPACE:
        if at or not has_soup(pack):
            raise RequestError(
                f"Method '{method[:60]}': it joins weights, so it has no space of its own and "
                "needs a pack all of whose experts are adapters: leave it out."
            )
        return name, own
    plan_request(pack, next(iter(pack.space)), name)
    if not at:
        return name, own
    if space in get_args(Space):
        return name, cast(Space, space)
    raise RequestError(f"Method '{method[:60]}': merge in {' or '.join(get_args(Space))}.")


def _alike(pack: Pack) -> bool:
    """Whether every expert is an adapter, and all change the same modules in the same rank."""
    if not has_soup(pack):
        return False
    from safetensors import safe_open

    shapes = []
    for adapter in pack.spec.experts.adapters.values():
        with safe_open(pack.path(adapter.folder) / WEIGHTS, "numpy") as file:
            shapes.append({name: file.get_slice(name).get_shape() for name in file.keys()})  # noqa: SIM118
    return all(found == shapes[0] for found in shapes)


def _codes(pack: Pack, method: str, codes: Sequence[str]) -> list[str]:
    nothing = LEFT_OUT * len(pack.space.dimensions)
    name, _ = _split(pack, method)
    name = "soup" if name in WEIGHT_SPACE else name  # which serves the same preferences
    try:
        plan_request(pack, pack.space.parse(nothing), name)
    except RequestError:
        for code in codes:
            plan_request(pack, pack.space.parse(code), name)  # refused now, not after an hour
        return [pack.space.parse(code).code for code in codes]
    return [nothing]
