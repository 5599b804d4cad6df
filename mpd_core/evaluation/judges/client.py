"""Which server judges, and what of its answers is read."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from mpd_core.errors import EngineError, MPDError, RequestError
from mpd_core.evaluation.judges.spending import Limits

MOST_KEPT = 20_000
"""Characters of an answer that are stored."""


@dataclass(frozen=True)
class ServerOptions:
    """Which model judges, and how it is asked."""

    url: str
    model: str
    key_env: str = "OPENAI_API_KEY"
    """Name of the environment variable with the key; a server without keys needs none."""
    limits: Limits = field(default_factory=Limits)
    parallel: int = 8
    max_tokens: int = 400
    """Limit of an answer in tokens, reasoning included."""
    timeout_s: float = 60.0
    retries: int = 4
    """After failures of the connection, busy servers and refusals that may pass."""
    total_s: float = 300.0
    """Of an answer with its retries: a server that sends a byte now and then never times out."""

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise RequestError(f"--url {self.url[:200]}: give an address such as http://host/v1.")
        if not self.model.strip():
            raise RequestError("--model: name the model that the server is to judge with.")
        if not 1 <= self.parallel <= 256:
            raise RequestError("--parallel: from 1 to 256.")
        if not 8 <= self.max_tokens <= 32_768:
            raise RequestError("--max-tokens: from 8 to 32768.")


def client(options: ServerOptions) -> Any:
    """The package's own client; ``MPDError`` where it is not installed."""
    try:
        import openai
    except ImportError as error:
        raise MPDError(
            "Judging by a server needs the package 'openai': pip install -e '.[evaluation]'."
        ) from error
    return openai.OpenAI(
        base_url=options.url,
        api_key=os.environ.get(options.key_env) or "none",
        timeout=options.timeout_s,
        max_retries=options.retries,
    )


def text(answer: Any) -> str:
    """Text of a chat completion, of a very long one the end; empty if there is none."""
    content = answer.choices[0].message.content
    if content is not None and not isinstance(content, str):
        raise TypeError("content is no text")
    # A file of UTF-8 holds no half of a surrogate pair, which JSON can spell.
    return (content or "").encode("utf-8", "replace").decode("utf-8")[-MOST_KEPT:]


def usage(answer: Any) -> tuple[int, int] | None:
    """Token usage reported by the server; None if missing or implausible."""
    usage = getattr(answer, "usage", None)
    found: list[Any] = [getattr(usage, f"{name}_tokens", None) for name in ("prompt", "completion")]
    return (found[0], found[1]) if all(type(n) is int and n >= 0 for n in found) else None


def failed(options: ServerOptions, error: Exception) -> EngineError:
    """One sentence on a server that cannot be asked."""
    reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
    return EngineError(
        f"The judge at {options.url} failed: {reason}: verdicts so far are stored; check it and "
        "judge again to go on."
    )
