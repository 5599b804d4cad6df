"""A reward model on a remote server, with the interface of a local one."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import httpx

from mpd_core.errors import EngineError

BATCH = 64
TRIES = 3


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
                problem = f"status {error.response.status_code}"
                if not _may_pass(error.response.status_code):
                    break
            except (httpx.TransportError, httpx.DecodingError, ValueError) as error:
                problem = str(error) or type(error).__name__
            except httpx.HTTPError as error:  # e.g. no end of redirects: another try is no better
                problem = str(error) or type(error).__name__
                break
        raise EngineError(f"The reward server {self._url} failed: {problem}. Check it and resume.")


def _may_pass(status: int) -> bool:
    """Whether a retry may succeed: not if the key, the address or the request is wrong."""
    return status in (408, 425, 429) or status >= 500


def _checked(answer: object, count: int) -> list[float]:
    scores = answer.get("scores") if isinstance(answer, dict) else None
    if not isinstance(scores, list) or len(scores) != count:
        raise ValueError(f"it must answer with {count} scores")
    numbers = [_finite(score) for score in scores]
    if None in numbers:
        raise ValueError("a score is not finite")
    return [number for number in numbers if number is not None]


def _finite(score: object) -> float | None:
    if isinstance(score, bool) or not isinstance(score, (int, float)):
        return None
    try:
        number = float(score)
    except OverflowError:  # JSON has whole numbers of any length
        return None
    return number if math.isfinite(number) else None
