"""One request to a server and its response's body, bounded in time and in size."""

from __future__ import annotations

import asyncio
import json
import ssl

import httpx

from mpd_core.errors import shortened

PASSING = (408, 409, 425, 429)  # beside 5xx
MAX_BODY_BYTES = 64_000_000
MAX_ERROR_BYTES = 64_000
MAX_QUOTE = 200  # characters of a server's own message


class FailureError(Exception):
    """A failed attempt; its text follows the name of a server in a sentence, and says what to do.

    Attributes:
        passing: a retry may succeed: time-outs, lost connections, ``PASSING`` and 5xx.
        pause_s: seconds that the server asked for, or 0.
    """

    def __init__(self, reason: str, *, passing: bool = False, pause_s: float = 0.0) -> None:
        super().__init__(reason)
        self.passing, self.pause_s = passing, pause_s


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
                f"sent more than {MAX_BODY_BYTES // 10**6} MB: check its address, or lower top_k"
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
        return FailureError(f"refused the key ({told}): check the variable that api_key_env names")
    if status == 404:
        return FailureError(f"does not know the model or the path ({told}): check model and url")
    if status not in PASSING and status < 500:
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
    """Seconds of a Retry-After header; a date, which it may be as well, counts as none."""
    return float(value[:9]) if value.strip().isdecimal() else 0.0
