"""HTTP for channels: JSON bodies, and what a status and a `Retry-After` mean for a notification."""

import email.utils
import json
import math
from collections.abc import Set as AbstractSet
from datetime import UTC

from tocsin.channels.base import Delivered, Paused, Rejected, Result, Retry
from tocsin.errors import Reason

MAX_RETRY_AFTER = 86400.0
"""Seconds. A receiver that asks for more is tried again after a day."""


def classify(
    status: int, detail: str, after: float | None = None, *, free: AbstractSet[int] = frozenset({429})
) -> Result:
    """The result of a notification by the HTTP status. `free`: statuses with which a receiver only asks to wait."""
    if 200 <= status < 300:
        return Delivered()
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
        except ValueError:
            return None
        wait = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - now
    if not math.isfinite(wait):
        return None
    return min(max(wait, 0.0), MAX_RETRY_AFTER)


def json_bytes(value: object) -> bytes:
    """A value as compact JSON in UTF-8, keys in their order. The same value gives the same bytes."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which only an escape can carry
        return json.dumps(value, separators=(",", ":")).encode()
