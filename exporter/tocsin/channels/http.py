"""HTTP for channels: requests, JSON bodies, and what a status and a `Retry-After` mean for a notification."""

import asyncio
import email.utils
import io
import json
import math
from collections.abc import Callable, Container, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import UTC
from typing import Any

import aiohttp
from yarl import URL

from tocsin.channels.addresses import PrivateAddressError, public_socket
from tocsin.channels.base import Delivered, Paused, Rejected, Result, Retry
from tocsin.errors import Reason
from tocsin.faults import why_unreachable

MAX_ANSWER = 16384
"""Bytes of an answer that are read."""

MAX_RETRY_AFTER = 86400.0
"""Seconds. A receiver that asks for more is tried again after a day."""

_LARGE = 65536


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that is no success. `detail`: the status and the beginning of the body, without secrets; `after`: the
    seconds that the receiver asks to wait."""

    status: int
    detail: str
    after: float | None


class Client:
    """Sends requests on kept connections, without cookies. Redirects are not followed."""

    def __init__(
        self, timeout: float, now: Callable[[], float], *, public_only: bool = False, **connector: Any
    ) -> None:
        """`timeout`: seconds of one request. `now`: wall-clock seconds. `public_only`: refuse private addresses.
        `connector`: arguments of aiohttp's connector."""
        self._timeout = timeout
        self._now = now
        self._connector = {**connector, "socket_factory": public_socket if public_only else None}
        self._session: aiohttp.ClientSession | None = None

    async def request(
        self,
        method: str,
        url: str | URL,
        *,
        headers: Mapping[str, str],
        body: bytes | None = None,
        success: Container[int] = range(200, 300),
        redact: Callable[[str], str],
    ) -> Delivered | Answer | Retry | Rejected:
        """Send one request. Never raises. `success`: the statuses of a delivery, whose body is not read."""
        # aiohttp writes bytes in one piece, which blocks the loop when they are many, and a file in parts.
        data = body if body is None or len(body) < _LARGE else io.BytesIO(body)
        try:
            async with (
                asyncio.timeout(self._timeout) as limit,
                self._opened().request(method, url, data=data, headers=headers, allow_redirects=False) as response,
            ):
                if response.status in success:
                    return Delivered(answer=str(response.status))
                text = redact(f"{response.status} {await _beginning(response, limit)}")
                return Answer(response.status, text, retry_after(response.headers.get("Retry-After"), self._now()))
        except TimeoutError:
            return Retry(Reason.TIMEOUT, f"no answer within {self._timeout:g} s")
        except aiohttp.InvalidURL as error:
            return Rejected(Reason.REJECTED, redact(f"the address is not valid: {error}"))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            detail = str(error) or type(error).__name__
            if isinstance(error, aiohttp.ClientConnectorError):
                if isinstance(error.os_error, PrivateAddressError):
                    detail = f"{error.host} has a private address, which is refused; set allow_private if it is meant"
                    return Rejected(Reason.REJECTED, redact(detail))
                detail = f"cannot connect to {error.host}:{error.port}: {why_unreachable(error.os_error)}"
            if isinstance(error, aiohttp.ClientResponseError):
                detail = f"the answer is not HTTP: {error.message.partition(chr(10))[0].rstrip(':') or detail}"
            return Retry(Reason.CONNECTION, redact(detail))

    async def fetch(self, url: str, *, headers: Mapping[str, str], most: int) -> bytes | None:
        """Return the body of an answer 200 of at most `most` bytes; None for anything else. Never raises."""
        content = bytearray()
        try:
            async with (
                asyncio.timeout(self._timeout),
                self._opened().get(url, headers=headers, allow_redirects=False) as response,
            ):
                if response.status != 200:
                    return None
                async for chunk in response.content.iter_any():
                    content += chunk
                    if len(content) > most:
                        return None
        except (aiohttp.ClientError, OSError, ValueError):  # TimeoutError is an OSError
            return None
        return bytes(content)

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(),  # `asyncio.timeout` takes half the time of aiohttp's
                connector=aiohttp.TCPConnector(**self._connector),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    async def close(self) -> None:
        """Close the connections. May be called twice."""
        if self._session is not None:
            await self._session.close()
            self._session = None


async def _beginning(response: aiohttp.ClientResponse, limit: asyncio.Timeout) -> str:
    """The first bytes of an answer, read until the end of `limit`. Its status is known, so a failure while reading
    changes nothing."""
    content = bytearray()
    end = limit.when()
    limit.reschedule(None)
    try:
        async with asyncio.timeout_at(end):
            while len(content) < MAX_ANSWER and (chunk := await response.content.read(MAX_ANSWER - len(content))):
                content += chunk
    except (aiohttp.ClientError, OSError, TimeoutError):
        pass
    return content.decode("utf-8", "replace")


def readable(body: bytes) -> Any:
    """A body for people: what it holds as JSON, else its text."""
    text = body.decode("utf-8", "replace")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def classify(
    status: int, detail: str, after: float | None = None, *, free: AbstractSet[int] = frozenset({429})
) -> Result:
    """The result of a notification by the HTTP status. `free`: statuses with which a receiver only asks to wait."""
    if 200 <= status < 300:
        return Delivered()
    if 300 <= status < 400:  # it says nothing of the notification: this is not the address of the receiver
        return Paused(Reason.REJECTED, f"{status}: a redirect, which is not followed; set the final address")
    if status in _PAUSES:
        return Paused(Reason.UNAUTHORIZED, detail)
    reason = _RETRIED.get(status) or (Reason.SERVER_ERROR if status >= 500 else None)
    if reason is not None:
        return Retry(reason, detail, after, free=status in free)
    return Rejected(_FINAL.get(status, Reason.REJECTED), detail)


_PAUSES = {401, 402, 403}
_RETRIED = {
    408: Reason.TIMEOUT,
    409: Reason.IN_PROGRESS,
    425: Reason.TOO_EARLY,
    429: Reason.RATE_LIMITED,
}
_FINAL = {404: Reason.NOT_FOUND, 410: Reason.NOT_FOUND, 413: Reason.TOO_LARGE}


def retry_after(header: str | None, now: float) -> float | None:
    """Seconds to wait by a `Retry-After` header (RFC 9110: seconds, or a date); None if it is absent or invalid."""
    if header is None:
        return None
    try:
        wait = float(header)
    except ValueError:
        try:
            moment = email.utils.parsedate_to_datetime(header)
        except (ValueError, OverflowError):  # an offset of years
            return None
        wait = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - now
    if not math.isfinite(wait):
        return None
    return min(max(wait, 0.0), MAX_RETRY_AFTER)


def json_bytes(value: object) -> bytes:
    """A value as compact JSON in UTF-8, keys in their order. The same value gives the same bytes."""
    try:
        return _encode(value).encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which only an escape can carry
        return json.dumps(value, separators=(",", ":")).encode()


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
