"""What a run generates: methods x preferences x prompts, each with a key of its content."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import get_args

from mpd_core.engine.plan import method_names, plan_request
from mpd_core.errors import RequestError
from mpd_core.evaluation.prompts import Prompt
from mpd_core.method.preferences import LEFT_OUT
from mpd_core.packs import Pack, Quantize
from mpd_core.request import GenerationRequest, Message, Sampling, Space

AT = "@"
"""``uniform@logit`` is the method ``uniform`` merged in another space than the pack's own."""


@dataclass(frozen=True)
class Job:
    """One reply to be generated."""

    key: str
    """Of everything that its text depends on: the pack, the prompt, the method and the setting."""
    id: str
    code: str
    """Left out in every dimension where the method asks for no preference."""
    method: str
    request: GenerationRequest


def methods_of(pack: Pack, chosen: str | None = None) -> list[str]:
    """The methods to compare: those named, with commas, or all that the pack can run.

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
    return [*method_names(pack), *(f"uniform{AT}{space}" for space in others)]


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
    content = content_of(pack, quantize)
    jobs = []
    for prompt in prompts:
        for method, code in wanted:
            name, space = _split(pack, method)
            request = GenerationRequest(
                (Message("user", prompt.text),),
                code,
                name,
                sampling=sampling,
                **pack.merging(pack.space.parse(code), space),
            )
            jobs.append(Job(key_of(content, request), prompt.id, code, method, request))
    return jobs


def content_of(pack: Pack, quantize: Quantize | None = None) -> str:
    """SHA-256 of all that a pack's replies depend on: titles and reward models are none of it."""
    spec = pack.spec.model_dump(
        mode="json", exclude={"title", "description", "examples", "rewards", "name"}
    )
    hashes = {
        name: sha
        for name, sha in pack.hashes.items()
        if name != "pack.toml" and name.partition(".")[0] != "rewards"
    }
    return _sha256({"spec": spec, "hashes": hashes, "quantize": quantize})


def key_of(content: str, request: GenerationRequest) -> str:
    """Of a reply: what is asked, of what."""
    return _sha256({"pack": content, "request": asdict(request)})[:32]


def _sha256(value: object) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _split(pack: Pack, method: str) -> tuple[str, Space]:
    name, _, space = method.partition(AT)
    plan_request(pack, next(iter(pack.space)), name)
    if not space:
        return name, pack.spec.decode.space
    for known in get_args(Space):
        if space == known:
            merged: Space = known
            return name, merged
    raise RequestError(f"Method '{method[:60]}': merge in {' or '.join(get_args(Space))}.")


def _codes(pack: Pack, method: str, codes: Sequence[str]) -> list[str]:
    nothing = LEFT_OUT * len(pack.space.dimensions)
    name, _ = _split(pack, method)
    try:
        plan_request(pack, pack.space.parse(nothing), name)
    except RequestError:
        preferences = [pack.space.parse(code) for code in codes]
        for preference in preferences:
            plan_request(pack, preference, name)  # refused now, and not after an hour
        return [preference.code for preference in preferences]
    return [nothing]
