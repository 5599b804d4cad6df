"""What a request produced, as plain values: one record a token, one trace a reply."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

SCHEMA_VERSION = 2
LINE_ENDS = {ord(end): f"\\u{ord(end):04x}" for end in "\x85\u2028\u2029"}
"""Characters that end a line to some readers (JavaScript, ``splitlines``) and not to JSON."""
FinishReason = Literal["stop", "length", "cancelled", "error"]


@dataclass(frozen=True)
class Candidate:
    """A token that the mixture or an expert had among its top k, and how likely each found it."""

    token_id: int
    text: str
    probability: float
    """Under the merged distribution (Eq. 1), before temperature, top-p and repetition penalty."""
    logprobs: Mapping[str, float]
    """Natural-log probability under each expert, by name."""


@dataclass(frozen=True)
class StepRecord:
    """One decoding step: the token and who wanted it.

    The ``text`` of all steps joins to the reply, byte for byte: a token that ends inside a UTF-8
    character has the text "", and the token that completes the character carries it. Characters
    that are spelled in byte tokens come with the token after those.
    """

    index: int
    token_id: int
    text: str
    weights: Mapping[str, float]
    """Expert name to weight alpha_i; they sum to 1."""
    probability: float
    """Of the token under the merged distribution, before temperature, top-p and penalty."""
    logprobs: Mapping[str, float]
    """Natural-log probability of the token under each expert, by name."""
    entropy: float
    """Of the merged distribution, in nats."""
    disagreement: float
    """Jensen-Shannon divergence of the experts under these weights, in nats: 0 where they agree."""
    divergence: float
    """The same with equal weights: how far the experts lie apart, whoever is listened to."""
    top_k: tuple[Candidate, ...] = ()
    """Union of the top k of the mixture and of each expert, likeliest in the mixture first."""
    missing: Mapping[str, float] = field(default_factory=dict)
    """By remote expert: probability outside what its server listed, spread over other tokens."""


@dataclass(frozen=True)
class Timing:
    """Seconds on the engine's clock, from submission."""

    first_token_s: float
    total_s: float
    tokens_per_s: float
    """Steps after the first over the time they took; 0 for a single step."""


@dataclass(frozen=True)
class Trace:
    """Everything needed to inspect a reply, or to repeat it."""

    pack: str
    hashes: Mapping[str, str]
    """File (pack.toml, adapters, base model) to SHA-256."""
    trained: bool
    """Whether the PCM behind the weights has been trained; an untrained one weighs uniformly."""
    prompt: str
    """The user's last message; ``messages`` holds the whole conversation."""
    messages: tuple[Mapping[str, str], ...]
    preference: str
    poles: tuple[str, ...]
    method: str
    space: str
    settings: Mapping[str, Any]
    seed: int
    device: str
    precision: str
    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    """Tokens of the longest row's prompt."""
    timing: Timing
    steps: tuple[StepRecord, ...] = field(repr=False)
    schema_version: int = SCHEMA_VERSION
    branch: Mapping[str, Any] | None = None
    """Of a reply that left another one: ``request.Branch`` as an object. ``steps`` and ``text``
    may begin after its prefix; a step's index says where."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values as JSON has them; ``analysis.trace_from_dict`` is the inverse."""
        plain = asdict(self)
        for step in plain["steps"]:
            for one in (step, *step["top_k"]):
                one["logprobs"] = _named(one["logprobs"])
        return plain

    def to_json(self, *, ascii_only: bool = False) -> str:
        """JSON that is one line to whoever reads lines.

        ``ascii_only`` escapes everything else, for who cannot write or read UTF-8.
        """
        text = json.dumps(self.to_dict(), ensure_ascii=ascii_only, allow_nan=False)
        return text.translate(LINE_ENDS)


def _named(logprobs: Mapping[str, float]) -> dict[str, float | None]:
    """JSON has no infinity: null is a log-probability of minus infinity."""
    return {name: value if math.isfinite(value) else None for name, value in logprobs.items()}
