"""An expert on another machine: next-token distributions from an OpenAI-compatible server.

The server is one that takes token ids and lists log-probabilities by token id, as vLLM does; its
model must have the base's vocabulary. One call asks about all prompts of the expert at once.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import random
import re
import threading
from collections.abc import Sequence

import httpx

from mpd_core.errors import EngineError
from mpd_core.packs import RemoteTable
from mpd_core.remote.completions import (
    BadAnswerError,
    RemoteAnswer,
    completion_request,
    parse_answers,
)
from mpd_core.remote.exchange import FailureError, exchange, make_client, parse_url

__all__ = ["RemoteAnswer", "RemoteError", "RemoteExpert"]

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 10.0  # a server that asks for more (Retry-After) is given up
_KEY = re.compile(r"[!-~]{1,4096}")


class RemoteError(EngineError):
    """A remote expert cannot be used; the text names it and its host, and says what to do."""


class RemoteExpert:
    """A client of one served expert; any number of threads may ask it at the same time.

    Its connections live on an event loop in a thread of its own: that bounds a whole attempt by
    one clock, however slowly a server drips, and lets ``close`` end calls that are under way.
    """

    def __init__(self, name: str, spec: RemoteTable, vocab_size: int) -> None:
        """Prepare a client; no connection is made yet.

        Args:
            name: of the expert (its pole), for messages.
            spec: where it is served; ``ca_file`` relative to the working directory.
            vocab_size: V, the width of the base's logits.

        Raises:
            RemoteError: the address is not http(s), the key is not in the environment, or the
                certificates or the environment's proxy cannot be used.
        """
        self.name, self.spec, self.vocab_size = name, spec, vocab_size
        self._key = ""
        url = parse_url(spec.url)
        self._host = url.netloc.decode("ascii") if url else "?"
        if url is None:
            raise self._error("has no usable url: give http(s)://host:port/v1, no user, no '?'")
        self._url = url.copy_with(path=url.path.rstrip("/") + "/completions")
        self._key = self._read_key()
        try:
            self._client = make_client(self._url, self._key, spec.ca_file)
        except OSError:  # ssl.SSLError is one
            raise self._error("needs PEM files as ca_file and SSL_CERT_FILE: one is none") from None
        except (ImportError, ValueError, httpx.InvalidURL):
            raise self._error(
                "cannot use the proxy of the environment: check HTTPS_PROXY"
            ) from None
        self._random = random.Random()  # back-off must not advance anyone's seeded generator
        self._lock, self._closed = threading.Lock(), False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name=f"remote-{name}", daemon=True
        )
        self._thread.start()

    def log_probs(self, prompts: Sequence[Sequence[int]]) -> list[RemoteAnswer]:
        """The next-token distribution after each prompt (token ids), from one call to the server.

        Blocks for at most (retries + 1) x timeout_s and retries x 10 s of pauses.

        Raises:
            RemoteError: no answer in time, a refusal, or an answer that cannot be believed.
        """
        if not prompts:
            return []
        top_k = min(self.spec.top_k, self.vocab_size)
        body = self._wait(completion_request(self.spec.model, prompts, top_k))
        try:
            return parse_answers(body, len(prompts), self.vocab_size, top_k)
        except BadAnswerError as error:
            raise self._error(str(error)) from None

    def close(self) -> None:
        """End calls that are under way (they raise RemoteError) and close all connections."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        asyncio.run_coroutine_threadsafe(self._shut_down(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, payload: bytes) -> bytes:
        """Run the request on the event loop's thread and block until it returns."""
        with self._lock:
            if self._closed:
                raise self._error("has been closed: start the engine again")
            future = asyncio.run_coroutine_threadsafe(self._post(payload), self._loop)
        try:
            return future.result()
        except FailureError as failure:
            raise self._error(failure.reason) from None
        except concurrent.futures.CancelledError:
            raise self._error("was closed while it was asked: start the engine again") from None
        finally:
            future.cancel()  # where the waiting thread itself was interrupted

    async def _post(self, payload: bytes) -> bytes:
        """The attempts."""
        for attempt in range(self.spec.retries + 1):
            try:
                return await exchange(self._client, self._url, payload, self.spec.timeout_s)
            except FailureError as failure:
                last = attempt == self.spec.retries
                if last or not failure.passing or failure.pause_s > LONGEST_PAUSE_S:
                    raise
                await asyncio.sleep(max(failure.pause_s, self._back_off(attempt)))
        raise AssertionError("unreachable")

    def _back_off(self, attempt: int) -> float:
        """Delay before the next attempt in seconds: exponential back-off with jitter."""
        longest = min(FIRST_PAUSE_S * 2.0**attempt, LONGEST_PAUSE_S)
        return longest * self._random.uniform(0.5, 1.0)

    async def _shut_down(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.aclose()

    def _read_key(self) -> str:
        name = self.spec.api_key_env
        if name is None:
            return ""
        key = os.environ.get(name, "").strip()
        if not _KEY.fullmatch(key):
            state = "holds characters that no key has" if key else "is not set"
            raise self._error(f"needs a key: the environment variable {name} {state}")
        return key

    def _error(self, reason: str) -> RemoteError:
        """The error as one line, with the API key removed wherever the server echoed it."""
        if self._key:
            reason = reason.replace(self._key, "***")
        return RemoteError(f"Expert '{self.name}' at {self._host} {reason}.")
