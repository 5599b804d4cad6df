"""Rollouts: replies sampled by the engine, with every expert's log-probability of every token."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mpd_core.engine import Engine
from mpd_core.engine.flight import outcomes
from mpd_core.engine.plan import ANCHOR, PLAIN
from mpd_core.errors import MPDError
from mpd_core.request import GenerationRequest, Sampling, Space
from mpd_core.saving import replacing
from mpd_core.trace import Candidate, Trace

DIGITS = 4  # of log-probabilities that only normalise: files of a tenth of the size


@dataclass(frozen=True)
class RolloutRequest:
    """One reply to be generated."""

    prompt: str
    preference: str
    method: str = "mpd"
    seed: int = 0
    space: Space | None = None
    """Where experts are merged; None: the pack's own way."""


@dataclass(frozen=True)
class Rollout:
    """A generated reply; T tokens, E experts in the order of the preference's poles."""

    prompt: str
    preference: str
    method: str
    text: str
    finished: bool
    """Whether it ended with the end-of-turn token."""
    tokens: tuple[int, ...]
    log_probs: tuple[tuple[float, ...], ...]
    """ln p_i of each token, [T][E]; in the space ``strength`` the anchors' before them."""
    weights: tuple[tuple[float, ...], ...]
    """alpha at each token, [T][E]."""
    disagreement: tuple[float, ...]
    """Of the experts at each token, in nats, [T]."""
    others: tuple[tuple[tuple[float, ...], ...], ...] = ()
    """Likewise of the likeliest tokens that were not chosen, [T][C][E]; only where the distribution
    is not a mixture of the experts' and must be normalised: at another temperature than 1, or in
    another space than that of probabilities."""
    other_ids: tuple[tuple[int, ...], ...] = ()
    """Ids of these, [T][C]; empty for written replies."""


def run(engine: Engine, asks: Sequence[RolloutRequest], sampling: Sampling) -> list[Rollout]:
    """Generate all replies, in mixed batches, in the order asked for.

    Each has its own seed in place of the sampling's. To learn from replies there must be no top-p
    and no penalty: only then does the probability of a token follow from the recorded ones.
    """

    def request(ask: RolloutRequest) -> GenerationRequest:
        own = asdict(replace(sampling, seed=ask.seed))
        return engine.pack.request(ask.prompt, ask.preference, ask.method, space=ask.space, **own)

    replies: list[Rollout] = []
    with tqdm(total=len(asks), desc="replies", leave=False) as bar:
        for ask, outcome in outcomes(engine, asks, request):
            if isinstance(outcome, MPDError):
                raise outcome
            replies.append(_reply(ask, outcome))
            bar.update()
    return replies


def save(file: Path, replies: Sequence[Rollout]) -> None:
    """Write replies to a file atomically, one JSON object per line."""
    with replacing(file) as scratch, scratch.open("w", encoding="utf-8") as lines:
        lines.writelines(json.dumps(asdict(reply), ensure_ascii=False) + "\n" for reply in replies)


def load(file: Path) -> list[Rollout]:
    """Read what ``save`` wrote."""
    with file.open(encoding="utf-8") as lines:
        rows = map(json.loads, lines)
        return [Rollout(**{key: frozen(value) for key, value in row.items()}) for row in rows]


def every(
    prompts: Sequence[str], codes: Sequence[str], samples: int, seed: int, method: str = "mpd"
) -> list[RolloutRequest]:
    """Requests for all prompts x preferences x samples, each with its own seed."""
    each = enumerate(itertools.product(prompts, codes, range(samples)), seed)
    return [RolloutRequest(prompt, code, method, own) for own, (prompt, code, _) in each]


def _reply(ask: RolloutRequest, trace: Trace) -> Rollout:
    first = trace.steps[0]
    names = [*(name for name in (PLAIN, ANCHOR) if name in first.logprobs), *first.weights]
    temperature = trace.settings["temperature"]
    normalised = trace.space == "probability" and temperature == 1.0
    told: Sequence[Sequence[Candidate]] = ()
    if not (normalised or temperature == 0.0):
        told = [[c for c in s.top_k if c.token_id != s.token_id] for s in trace.steps]

    def said(logprobs: Mapping[str, float]) -> tuple[float, ...]:
        return tuple(round(logprobs[name], DIGITS) for name in names)

    return Rollout(
        prompt=ask.prompt,
        preference=ask.preference,
        method=ask.method,
        text=trace.text,
        finished=trace.finish_reason == "stop",
        tokens=tuple(step.token_id for step in trace.steps),
        log_probs=tuple(tuple(s.logprobs[name] for name in names) for s in trace.steps),
        weights=tuple(tuple(step.weights.values()) for step in trace.steps),
        disagreement=tuple(step.disagreement for step in trace.steps),
        others=tuple(tuple(said(c.logprobs) for c in some) for some in told),
        other_ids=tuple(tuple(c.token_id for c in some) for some in told),
    )


def frozen(value: Any) -> Any:
    """Nested lists, as JSON and ``Tensor.tolist`` give them, as tuples."""
    return tuple(map(frozen, value)) if isinstance(value, list) else value
