"""One request to a completion server and its response's body, bounded in time and in size."""

from __future__ import annotations

import asyncio
import json
import ssl
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx

from mpd_core.errors import shortened

MAX_BODY_BYTES = 64_000_000
MAX_ERROR_BYTES = 64_000
MAX_QUOTE = 200  # characters of a server's own message


class FailureError(Exception):
    """A failed attempt: the reason, whether a retry may succeed, and the delay before it.

    Attributes:
        reason: follows the name of a server in a sentence; says what to do.
        passing: time-outs, lost connections, status 429 and 5xx.
        pause_s: seconds that the server asked for, or 0.
    """

    def __init__(self, reason: str, *, passing: bool = False, pause_s: float = 0.0) -> None:
        super().__init__(reason)
        self.reason, self.passing, self.pause_s = reason, passing, pause_s


def parse_url(text: str) -> httpx.URL | None:
    """An API's base address, or None if it is not plain http(s)."""
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        return None
    whole = url.scheme in ("http", "https") and url.host
    return url if whole and not (url.userinfo or url.query or url.fragment) else None


def make_client(url: httpx.URL, key: str, ca_file: Path | None) -> httpx.AsyncClient:
    """A client that verifies https, with more authorities if a PEM file is given.

    Raises:
        OSError: the file cannot be read.
    """
    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    verify: ssl.SSLContext | bool = True
    if url.scheme == "https":
        verify = httpx.create_ssl_context()
        if ca_file:
            verify.load_verify_locations(cafile=ca_file)
    # No time-outs of single reads: ``exchange`` bounds an attempt as a whole.
    return httpx.AsyncClient(headers=headers, verify=verify, timeout=None)


async def exchange(
    client: httpx.AsyncClient, url: httpx.URL, payload: bytes, timeout_s: float
) -> bytes:
    """Post JSON to a whole address; the response's body. Redirects are not followed.

    ``timeout_s`` is for everything, from connecting to the last byte.

    Raises:
        FailureError: anything but a whole response with status 200.
    """
    try:
        return await asyncio.wait_for(_post(client, url, payload), timeout_s)
    except asyncio.TimeoutError:
        raise FailureError(
            f"did not answer within {timeout_s:g} s: check that it runs and is not overloaded,"
            " or raise timeout_s",
            passing=True,
        ) from None
    except httpx.TransportError as error:
        raise _connection_failure(error) from None


async def _post(client: httpx.AsyncClient, url: httpx.URL, payload: bytes) -> bytes:
    async with client.stream("POST", url, content=payload) as response:
        if response.status_code != 200:
            raise _status_failure(response, await _read(response, MAX_ERROR_BYTES))
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise FailureError("compressed its answer unasked: switch that off in its proxy")
        body = await _read(response, MAX_BODY_BYTES)
        if len(body) > MAX_BODY_BYTES:
            raise FailureError(
                f"sent more than {MAX_BODY_BYTES // 10**6} MB: lower top_k, or check that the"
                " address is a completion server's"
            )
        return body


async def _read(response: httpx.Response, limit: int) -> bytes:
    """The body as it was sent, or its beginning once that is longer than ``limit`` bytes."""
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > limit:
            break
    return bytes(body)


def _connection_failure(error: httpx.TransportError) -> FailureError:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return FailureError(
                f"has a certificate that cannot be verified ({_short(cause.verify_message)}):"
                " name its authority's file as ca_file"
            )
        cause = cause.__cause__ or cause.__context__
    what = "cannot be reached" if isinstance(error, httpx.ConnectError) else "broke off its answer"
    detail = _short(str(error)) or type(error).__name__
    return FailureError(f"{what} ({detail}): check that it runs at this address", passing=True)


def _status_failure(response: httpx.Response, body: bytes) -> FailureError:
    status = response.status_code
    if 300 <= status < 400:
        return FailureError(f"redirects (status {status}): put the final address into url")
    sent = response.request.headers.get("Authorization", "").removeprefix("Bearer ")
    told = f"status {status}: {_message(body, sent)}"
    if status in (401, 403):
        return FailureError(f"refused the key ({told}): check the variable named by api_key_env")
    if status == 404:
        return FailureError(f"does not know the model or the path ({told}): check model and url")
    if status != 429 and status < 500:
        return FailureError(f"refused the request ({told})")
    state = "is overloaded" if status in (429, 503) else "failed"
    pause_s = _retry_after(response.headers.get("Retry-After", ""))
    again = f"try again in {pause_s:.0f} s" if pause_s >= 1 else "look into its log and try again"
    return FailureError(f"{state} ({told}): {again}", passing=True, pause_s=pause_s)


def _message(body: bytes, key: str) -> str:
    """The message in an error response: from OpenAI's or FastAPI's JSON, else the body's text.

    The key is taken out where a server repeats it, before the text is cut: half a key is one too.
    """
    text = body.decode("utf-8", "replace")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        data = text
    if isinstance(data, dict):
        inner = data.get("error", data)
        table = inner if isinstance(inner, dict) else data
        data = table.get("message") or table.get("detail") or inner
    text = str(data).replace(key, "***") if key else str(data)
    return _short(text) or "no message"


def _short(text: str) -> str:
    """The text as one printable line, shortened."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return shortened(line, MAX_QUOTE)


def _retry_after(value: str) -> float:
    """Seconds from now of a Retry-After header: a number, or a date (RFC 9110, 10.2.3)."""
    if value.strip().isdecimal():
        return float(value[:9])
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):  # whatever the parser stumbles on
        return 0.0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return max((moment - datetime.now(timezone.utc)).total_seconds(), 0.0)
