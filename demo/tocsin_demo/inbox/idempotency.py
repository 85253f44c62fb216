"""The `Idempotency-Key` of Novu: the first request under a key runs, and its answer is replayed to the others.

A key belongs to the organisation, not to a path. It applies to POST only.
"""

import hashlib
import json
from typing import Any

from tocsin_demo.inbox.answers import Outcome, Problem

MAX_KEY = 255
MOST_KEYS = 100_000
_LINK = "https://docs.novu.co/additional-resources/idempotency"


class IdempotencyKeys:
    """The known keys and the answers to them. Beyond `MOST_KEYS` the oldest is forgotten; Novu forgets after a day."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[str, Outcome | None]] = {}

    def begin(self, key: str, body: Any) -> tuple[Outcome | None, bool]:
        """The answer, and whether it is a replay. Without an answer, run the request and call `finish`."""
        if len(key) > MAX_KEY:
            message = f'idempotencyKey "{key}" has exceeded the maximum allowed length of {MAX_KEY} characters'
            return Problem(status=400, message=message), False
        # The order of fields counts, white space does not: Novu hashes JSON.stringify of the parsed body.
        digest = hashlib.sha256(json.dumps(body, separators=(",", ":")).encode()).hexdigest()
        if key not in self._entries:
            self._entries[key] = (digest, None)
            if len(self._entries) > MOST_KEYS:
                del self._entries[next(iter(self._entries))]
            return None, False
        known, outcome = self._entries[key]
        headers = {"idempotency-key": key, "link": _LINK}
        if outcome is None:
            message = f'Request with key "{key}" is currently being processed. Please retry after 1 second'
            return Problem(status=409, message=message, headers=headers | {"retry-after": "1"}), False
        if known != digest:
            message = f'Request with key "{key}" is being reused for a different body'
            return Problem(status=422, message=message, headers=headers), False
        return outcome, True

    def finish(self, key: str, outcome: Outcome) -> None:
        """Keep the answer, also that of an error."""
        if key in self._entries:
            self._entries[key] = (self._entries[key][0], outcome)
