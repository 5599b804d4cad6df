"""An expert on another machine: next-token distributions from an OpenAI-compatible server.

The server is one that takes token ids and lists log-probabilities by token id, as vLLM does; its
model must have the base's vocabulary. One call asks about all prompts of the expert at once.
"""

from __future__ import annotations

from collections.abc import Sequence

from mpd_core.errors import EngineError
from mpd_core.packs import RemoteTable
from mpd_core.remote.client import Client
from mpd_core.remote.completions import RemoteAnswer, completion_request, parse_answers

__all__ = ["RemoteAnswer", "RemoteError", "RemoteExpert"]


class RemoteError(EngineError):
    """A remote expert cannot be used; the text names it and its host, and says what to do."""


class RemoteExpert:
    """A client of one served expert; any number of threads may ask it at the same time."""

    def __init__(self, name: str, spec: RemoteTable, vocab_size: int) -> None:
        """Prepare a client; no connection is made yet.

        Args:
            name: of the expert (its pole), for messages.
            spec: where it is served; ``ca_file`` relative to the working directory.
            vocab_size: V, the width of the base's logits.

        Raises:
            RemoteError: see ``Client``.
        """
        self.name, self.spec, self.vocab_size = name, spec, vocab_size
        self._client = Client(
            spec.url.rstrip("/") + "/completions",
            lambda host, reason: RemoteError(f"Expert '{name}' at {host} {reason}."),
            timeout_s=spec.timeout_s,
            retries=spec.retries,
            patience_s=10.0,  # a reply waits for it
            key_env=spec.api_key_env,
            ca_file=spec.ca_file,
        )

    def log_probs(self, prompts: Sequence[Sequence[int]]) -> list[RemoteAnswer]:
        """The next-token distribution after each prompt (token ids), from one call to the server.

        Raises:
            RemoteError: no answer in time, a refusal, or an answer that cannot be believed.
        """
        if not prompts:
            return []
        top_k = min(self.spec.top_k, self.vocab_size)
        return self._client.post(
            completion_request(self.spec.model, prompts, top_k),
            lambda body: parse_answers(body, len(prompts), self.vocab_size, top_k),
        )

    def close(self) -> None:
        """End calls that are under way (they raise RemoteError) and close all connections."""
        self._client.close()
