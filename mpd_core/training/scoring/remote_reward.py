"""A reward model on a remote server, with the interface of a local one."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

import httpx

from mpd_core.errors import EngineError

BATCH = 64
TRIES = 3
MOST = sys.float_info.max


class RemoteReward:
    """Asks ``POST url`` with ``{"prompts": [...], "replies": [...]}`` for ``{"scores": [...]}``."""

    def __init__(self, url: str, api_key: str | None = None, timeout_s: float = 60.0) -> None:
        """Prepare a client; nothing is sent yet."""
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._url = url
        self._client = httpx.Client(headers=headers, timeout=timeout_s)

    def __call__(self, prompts: Sequence[str], replies: Sequence[str]) -> list[float]:
        """One score a reply.

        Raises:
            EngineError: no answer after some tries, or one that is not a finite number a reply.
        """
        scores: list[float] = []
        for start in range(0, len(replies), BATCH):
            part = slice(start, start + BATCH)
            scores += self._ask(list(prompts[part]), list(replies[part]))
        return scores

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _ask(self, prompts: list[str], replies: list[str]) -> list[float]:
        problem = ""
        for attempt in range(TRIES):
            if attempt:
                time.sleep(min(0.2 * 2**attempt, 2.0))
            try:
                answer = self._client.post(self._url, json={"prompts": prompts, "replies": replies})
                answer.raise_for_status()
                return _checked(answer.json(), len(replies))
            except httpx.HTTPStatusError as error:
                status = error.response.status_code
                problem = f"status {status}"
                if status not in (408, 425, 429) and status < 500:
                    break  # the key, the address or the request is wrong, and stays so
            except (httpx.HTTPError, ValueError) as error:
                problem = str(error) or type(error).__name__
        raise EngineError(f"The reward server {self._url} failed: {problem}. Check it and resume.")


def _checked(answer: object, count: int) -> list[float]:
    scores = answer.get("scores") if isinstance(answer, dict) else None
    if not isinstance(scores, list) or len(scores) != count:
        raise ValueError(f"it must answer with {count} scores")
    # Bounded and not only finite: JSON has whole numbers of any length.
    if not all(type(score) in (int, float) and abs(score) <= MOST for score in scores):
        raise ValueError("a score is not finite")
    return [float(score) for score in scores]
