"""The `Idempotency-Key` of Novu: the first request under a key runs, its answer is replayed to the others.

The key belongs to the organisation, not to a path. It covers requests that change something by POST, and neither GET
nor DELETE.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any

from tocsin_demo.inbox.answers import Outcome, Problem

MAX_KEY = 255
KEPT_S = 24 * 3600.0
IN_PROGRESS_S = 300.0
MOST_KEYS = 100_000
_LINK = "https://docs.novu.co/additional-resources/idempotency"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    digest: str
    expires_at: float
    outcome: Outcome | None = None


def _digest(body: Any) -> str:
    # The order of the fields counts, white space does not: Novu hashes JSON.stringify of what it parsed.
    return hashlib.sha256(json.dumps(body, separators=(",", ":")).encode()).hexdigest()


class IdempotencyKeys:
    """Which keys are known, and what was answered under them; beyond `MOST_KEYS` the oldest is forgotten."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}

    def begin(self, key: str, body: Any, now: float) -> tuple[Outcome | None, bool]:
        """`(answer, replayed)`; no answer means that the caller is to run the request, then to `finish`."""
        if len(key) > MAX_KEY:
            message = f'idempotencyKey "{key}" has exceeded the maximum allowed length of {MAX_KEY} characters'
            return Problem(status=400, message=message), False
        entry = self._entries.get(key)
        digest = _digest(body)
        if entry is None or entry.expires_at <= now:
            self._entries.pop(key, None)
            self._entries[key] = _Entry(digest=digest, expires_at=now + IN_PROGRESS_S)
            if len(self._entries) > MOST_KEYS:
                del self._entries[next(iter(self._entries))]
            return None, False
        headers = {"idempotency-key": key, "link": _LINK}
        if entry.outcome is None:
            message = f'Request with key "{key}" is currently being processed. Please retry after 1 second'
            return Problem(status=409, message=message, headers=headers | {"retry-after": "1"}), False
        if entry.digest != digest:
            message = f'Request with key "{key}" is being reused for a different body'
            return Problem(status=422, message=message, headers=headers), False
        return entry.outcome, True

    def finish(self, key: str, outcome: Outcome, now: float) -> None:
        """Keep the answer, an error's too, for a day."""
        if (entry := self._entries.get(key)) is not None:
            self._entries[key] = replace(entry, outcome=outcome, expires_at=now + KEPT_S)
