"""The HTTP client of remote experts, judges and reward servers.

Over httpx and not the ``openai`` client: that one reads JSON as Python does, so a token that is
listed twice would silently count once; it bounds neither the size of an answer nor an attempt as a
whole, and it follows redirects.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import random
import re
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import httpx

from mpd_core.errors import EngineError
from mpd_core.remote.exchange import FailureError, exchange

T = TypeVar("T")
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 10.0
_KEY = re.compile(r"[ -~]{1,4096}")


class Client:
    """Posts JSON to one address; any number of threads may at the same time.

    Its connections live on an event loop in a thread of its own: that bounds a whole attempt by
    one clock, however slowly a server drips, and lets ``close`` end calls that are under way.
    """

    def __init__(
        self,
        address: str,
        failed: Callable[[str, str], EngineError],
        *,
        timeout_s: float,
        retries: int,
        patience_s: float = 60.0,
        key_env: str | None = None,
        ca_file: Path | None = None,
    ) -> None:
        """Prepare a client that verifies https; no connection is made yet.

        Args:
            address: whole, http or https.
            failed: from the server's host and what it did or lacks, the end of a sentence, to the
                error that is raised.
            timeout_s: of one attempt, from connecting to the last byte.
            retries: attempts after the first, where they may succeed.
            patience_s: a server that asks for a longer pause (Retry-After) is given up.
            key_env: name of the environment variable that holds the key.
            ca_file: PEM with more authorities, relative to the working directory.

        Raises:
            EngineError: the address is not http(s), the key is not in the environment, or the
                certificates or the environment's proxy cannot be used.
        """
        self._failed, self._host, self._key = failed, "?", ""
        self._url = self._checked(address)
        self._host = self._url.netloc.decode("ascii")
        self._key = self._read_key(key_env)
        self._timeout_s, self._retries, self._patience_s = timeout_s, retries, patience_s
        try:
            self._client = _http(self._url, self._key, ca_file)
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
            target=self._loop.run_forever, name=f"remote-{self._host}", daemon=True
        )
        self._thread.start()

    def post(self, payload: bytes, read: Callable[[bytes], T]) -> T:
        """What ``read`` makes of the answer to some JSON; it may raise ``FailureError``.

        Blocks for at most (retries + 1) x timeout_s and retries pauses of 10 s, or what the server
        asks for.

        Raises:
            EngineError: no answer in time, a refusal, or an answer that cannot be read.
        """
        with self._lock:
            if self._closed:
                raise self._error("has been closed: start the engine again")
            future = asyncio.run_coroutine_threadsafe(self._attempts(payload, read), self._loop)
        try:
            return future.result()
        except FailureError as failure:
            raise self._error(str(failure)) from None
        except concurrent.futures.CancelledError:
            raise self._error("was closed while it was asked: start the engine again") from None
        finally:
            future.cancel()  # where the waiting thread itself was interrupted

    def close(self) -> None:
        """End calls that are under way (they raise an error) and close all connections."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        asyncio.run_coroutine_threadsafe(self._shut_down(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _shut_down(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.aclose()

    async def _attempts(self, payload: bytes, read: Callable[[bytes], T]) -> T:
        for attempt in range(self._retries + 1):
            try:
                return read(await exchange(self._client, self._url, payload, self._timeout_s))
            except FailureError as failure:
                last = attempt == self._retries
                if last or not failure.passing or failure.pause_s > self._patience_s:
                    raise
                longest = min(FIRST_PAUSE_S * 2.0**attempt, LONGEST_PAUSE_S)
                back_off = longest * self._random.uniform(0.5, 1.0)
                await asyncio.sleep(max(failure.pause_s, back_off))
        raise AssertionError("unreachable")

    def _checked(self, address: str) -> httpx.URL:
        try:
            url = httpx.URL(address)
        except httpx.InvalidURL:
            url = httpx.URL("")
        whole = url.scheme in ("http", "https") and url.host
        if not whole or url.userinfo or url.query or url.fragment:
            raise self._error("has no usable url: give http(s)://host:port/v1, no user, no '?'")
        return url

    def _read_key(self, name: str | None) -> str:
        key = os.environ.get(name, "").strip() if name else ""
        if name and not _KEY.fullmatch(key):
            state = "holds characters that no key has" if key else "is not set"
            raise self._error(f"needs a key: the environment variable {name} {state}")
        return key

    def _error(self, reason: str) -> EngineError:
        """With the API key removed wherever the server echoed it."""
        return self._failed(self._host, reason.replace(self._key, "***") if self._key else reason)


def _http(url: httpx.URL, key: str, ca_file: Path | None) -> httpx.AsyncClient:
    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    verify: ssl.SSLContext | bool = True
    if url.scheme == "https":
        verify = httpx.create_ssl_context()
        if ca_file:
            verify.load_verify_locations(cafile=ca_file)
    # No bounds of single reads or on connections: ``exchange`` bounds an attempt as a whole.
    return httpx.AsyncClient(headers=headers, verify=verify, timeout=None, limits=httpx.Limits())
